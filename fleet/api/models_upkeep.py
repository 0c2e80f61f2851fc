"""What is asked and answered where a fleet is kept in order."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, FiniteFloat, StringConstraints

from fleet.api.models import Label, Request
from fleet.maintenance import Kind


class DevicesPatch(Request):
    """Where several devices stand, and what for; what is left out stays."""

    devices: list[Annotated[str, StringConstraints(max_length=64)]] = Field(min_length=1, max_length=1000)
    site: Label | None = None
    group: Label | None = None


class NewMaintenance(Request):
    """Somebody works there: nobody is told of alerts before it is over."""

    kind: Kind
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    begins: FiniteFloat | None = Field(None, description="null: now")
    ends: FiniteFloat
    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] = ""


class Window(BaseModel):
    """Maintenance of a device, a site or a group."""

    id: int
    kind: Kind
    name: str
    begins: float
    ends: float
    reason: str
    by: str


class Windows(BaseModel):
    """Those that are open or still to come, the first to end first."""

    maintenance: list[Window]


class MadeWindow(BaseModel):
    """A new window."""

    id: int


class Changed(BaseModel):
    """How many devices."""

    changed: int


class GivenUp(BaseModel):
    """Numbers that count as lost from now on, by lane."""

    given_up: dict[str, int]


class DeadLetter(BaseModel):
    """A message that could not be stored. `payload` is its beginning."""

    device: str
    topic: str
    reason: str
    first_at: float
    last_at: float
    times: int
    bytes: int
    payload: str


class DeadLetters(BaseModel):
    """Newest first; `next` is for `before`."""

    dead_letters: list[DeadLetter]
    next: str | None
