"""What a device and an enrolment server say to each other: JSON over HTTPS, below /enrol/1/."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agent.identity.errors import MistakenError

PREFIX = "/enrol/1"
SECRET_BYTES = 32
PIN_BYTES = 32
NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"


class Message(BaseModel):
    """Members may be added within version 1; whoever does not know them ignores them."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Ca(Message):
    """The CA in PEM, and the server's clock: neither is to be believed before the fingerprint was compared."""

    certificate: str
    time: float


class Join(Message):
    """The secret of an invitation and a certificate request."""

    name: str = Field(pattern=NAME)
    secret: str = Field(max_length=64)
    request: str = Field(max_length=4096)


class Renew(Message):
    """A certificate that one has, a request for another, and the proof that one has the first one's key."""

    certificate: str = Field(max_length=4096)
    request: str = Field(max_length=4096)
    proof: str = Field(max_length=200)


class Broker(Message):
    """Where the device connects to."""

    host: str
    port: int = Field(ge=1, le=65535)
    delivery: Literal["hub", "broker"]


class Issued(Message):
    """The certificate, in PEM."""

    certificate: str
    broker: Broker


class Waiting(Message):
    """The operator is asked; ask again, with the same key, after so many seconds."""

    waiting: str
    """The number under which the operator sees the request."""
    reason: str
    again_after_s: float = Field(ge=1)


@dataclass(frozen=True)
class Token:
    """What `almena fleet invite` prints: whom it is for, the secret, and the fingerprint of the fleet's CA."""

    name: str
    secret: bytes
    pin: bytes

    def __str__(self) -> str:
        return f"{self.name}.{_text(self.secret)}.{_text(self.pin)}"

    def __repr__(self) -> str:
        return f"Token({self.name})"

    @property
    def secret_text(self) -> str:
        """The secret as it is sent."""
        return _text(self.secret)

    @classmethod
    def parse(cls, text: str) -> Token:
        """Raises MistakenError, which does not hold the token, where a part is missing or cut short."""
        parts = text.strip().split(".")
        try:
            name, secret, pin = parts[0], _bytes(parts[1]), _bytes(parts[2])
        except (IndexError, ValueError, binascii.Error):
            name, secret, pin = "", b"", b""
        if len(parts) != 3 or len(secret) != SECRET_BYTES or len(pin) != PIN_BYTES or not re.fullmatch(NAME, name):
            raise MistakenError("that is no token, or not the whole of it: copy all that `almena fleet invite` printed behind the address")
        return cls(name, secret, pin)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
