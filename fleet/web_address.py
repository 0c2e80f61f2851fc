"""An address of the web in settings."""

from __future__ import annotations

from typing import Annotated

import httpx
from pydantic import AfterValidator

from agent.config import matching

HIGHEST_PORT = 65535


def _address(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"this is no address: {error}") from None
    if not parsed.host:
        raise ValueError("this address names no host")
    if (parsed.port or 0) > HIGHEST_PORT:
        raise ValueError(f"this is no address: ports end at {HIGHEST_PORT}")
    return url


WebAddress = Annotated[
    str, matching(r"https?://[^\s@]+", "begin with https:// or http://, and hold no user name"), AfterValidator(_address)
]
