"""What is asked and answered about pictures."""

from __future__ import annotations

from pydantic import BaseModel, Field

from agent.settings import Name
from fleet.accounts import Role
from fleet.api.models import Request


class DoorState(BaseModel):
    """Whether devices can bring pictures to this hub."""

    open: bool
    viewers: Role = Field(description="The least role that may see them.")


class NewLiveView(Request):
    """Somebody wants to look at a stream."""

    stream: Name


class LiveView(BaseModel):
    """It can be looked at."""

    id: str
    seconds: float = Field(description="It ends after so long.")


class LiveState(BaseModel):
    """How a live view is."""

    ended: str = Field(description="Why it has ended; empty while it goes on.")
    silent_s: float = Field(description="How old its newest picture is.")


class Snapshot(BaseModel):
    """A picture of a stream. `size` in bytes."""

    id: str
    stream: str
    at: float
    size: int


class Snapshots(BaseModel):
    """Newest first."""

    snapshots: list[Snapshot]
