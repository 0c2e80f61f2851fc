"""What a device and the hub's door say to each other about shared identities: JSON over HTTPS, below /door/1/sharing.

Members may be added within version 1; whoever does not know them ignores them.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from pydantic.functional_validators import AfterValidator

from agent.datatypes import MAX_NAME
from agent.identity.protocol import NAME

PREFIX = "/sharing"
"""Below the door's own."""
MOST_IDENTITIES = 2000
"""That one device makes, holds, or names in one message."""
MOST_RECIPIENTS = 1000
MAX_BOX = 2 * 2**20
"""Bytes of a sealed box."""
MAX_MESSAGE = 3 * 2**20
"""A message: one with a box in Base64 is the largest."""

Reason = Literal["requested", "expired", "ordered", "left"]
"""Why a device erased an identity: somebody there asked for it, its time was over, the hub ordered it, the device left the site."""


def _decodable(value: str) -> str:
    base64.b64decode(value, validate=True)
    return value


Base64 = Annotated[str, AfterValidator(_decodable)]
DeviceName = Annotated[str, Field(pattern=NAME)]
IdentityId = Annotated[str, Field(pattern=r"^p-[0-9a-f]{1,32}$")]
Revision = Annotated[int, Field(ge=1, lt=1 << 53)]


class Message(BaseModel):
    """Frozen; unknown members are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Signed(Message):
    """A signature by the key of a device's certificate (PEM) over a text that goes with it."""

    certificate: str = Field(max_length=4096)
    proof: str = Field(max_length=200)


class SharingKey(Message):
    """The key for which boxes for `device` are sealed."""

    device: DeviceName
    public: Base64 = Field(max_length=64)
    signed: Signed

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.device}\0{self.public}"


class Own(Message):
    """An identity that was enrolled on the device that says so. Times are Unix seconds."""

    id: IdentityId
    name: str = Field(min_length=1, max_length=MAX_NAME)
    consent: str = Field(max_length=20_000)
    expires_at: FiniteFloat | None
    revision: Revision
    pictures: int = Field(ge=0)


class Held(Message):
    """An identity that came from another device."""

    id: IdentityId
    revision: Revision


class Declined(Message):
    """One that could not be taken, and why. The reason names nobody."""

    id: IdentityId
    revision: Revision
    reason: str = Field(max_length=300)


class Sync(Message):
    """All that a device has to say. `erased`: identities that it has erased, but not those whose site it left."""

    key: SharingKey
    own: tuple[Own, ...] = Field((), max_length=MOST_IDENTITIES)
    held: tuple[Held, ...] = Field((), max_length=MOST_IDENTITIES)
    declined: tuple[Declined, ...] = Field((), max_length=MOST_IDENTITIES)
    erased: tuple[IdentityId, ...] = Field((), max_length=MOST_IDENTITIES)


class Sealing(Message):
    """Seal this identity for these devices."""

    id: IdentityId
    to: tuple[SharingKey, ...] = Field(max_length=MOST_RECIPIENTS)


class Duties(Message):
    """What the hub answers: whether devices of this one's site share, what hinders it, and what is to be done; `receipts`: of which
    erasures it waits for one."""

    sharing: bool = False
    trouble: str = ""
    seal: tuple[Sealing, ...] = ()
    fetch: tuple[Held, ...] = ()
    erase: tuple[IdentityId, ...] = ()
    leave: tuple[IdentityId, ...] = ()
    receipts: tuple[IdentityId, ...] = ()


class Label(Message):
    """What a box is and for whom: sealed with it and signed."""

    id: IdentityId
    revision: Revision
    origin: DeviceName
    to: DeviceName
    sealed_at: FiniteFloat

    @property
    def text(self) -> str:
        """Equal for equal labels."""
        return self.model_dump_json()


class Box(Message):
    """A sealed identity."""

    label: Label
    sealed: Base64 = Field(max_length=MAX_BOX * 4 // 3 + 4)
    signed: Signed

    @staticmethod
    def text(label: Label, sealed: str) -> str:
        """What is signed."""
        return f"{label.text}\0{hashlib.sha256(sealed.encode()).hexdigest()}"


class Receipt(Message):
    """Proof that a device has erased an identity: how many pictures, templates and clusters of unknown persons went."""

    id: str = Field(pattern=r"^e-[0-9a-f]{1,32}$")
    identity: IdentityId
    device: DeviceName
    reason: Reason
    erased_at: FiniteFloat
    pictures: int = Field(ge=0)
    templates: int = Field(ge=0)
    clusters: int = Field(ge=0)

    @property
    def text(self) -> str:
        """What is signed."""
        return self.model_dump_json()


class SignedReceipt(Message):
    """A receipt that can be shown to others."""

    receipt: Receipt
    signed: Signed


class Receipts(Message):
    """Some of them."""

    receipts: tuple[SignedReceipt, ...] = Field(max_length=MOST_IDENTITIES)


class Person(Message):
    """What a box holds. `vectors` are little-endian float32 by the embedder `model`; an image is the kept cut-out, JPEG."""

    name: str = Field(min_length=1, max_length=MAX_NAME)
    consent: str = Field(max_length=20_000)
    expires_at: FiniteFloat | None
    created_at: FiniteFloat
    model: str = Field(max_length=200)
    images: tuple[Base64 | None, ...] = Field(max_length=256)
    vectors: tuple[Base64 | None, ...] = Field(max_length=256)
