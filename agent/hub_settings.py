"""What a device sends to the fleet's hub, or fetches there, beside what goes over the broker."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from agent.config import Config
from agent.identity.address import Address


def _https(url: str) -> str:
    Address.of(url)
    return url.rstrip("/")


class HubLinkSettings(Config):
    """The hub's door, reached over HTTPS with the certificate that `almena join` got. All of it is off until it is set here: no hub can."""

    url: Annotated[str, AfterValidator(_https)] = Field(description="Where the hub's door is.", examples=["https://hub.example.org:8641"])
    pictures: bool = Field(False, description="Send pictures of faces with their events, and of a stream when somebody at the hub asks.")
    live: bool = Field(False, description="Let people at the hub look at live pictures; the local page shows when they do.")
    identities: bool = Field(False, description="Share identities with the devices of this site: give those enrolled here, take theirs.")
