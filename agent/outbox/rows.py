"""What the parts of the outbox hand to each other."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.clock import Clock
from agent.config import Config
from agent.datatypes import Event
from agent.errors import AlmenaError
from agent.settings import LaneSettings

LANES = ("event", "audit", "telemetry", "loss", "clock")

PENDING, SETTLED, DEAD = 0, 1, 2


class OutboxError(AlmenaError):
    """The outbox cannot do it. What was to be appended is counted, and declared as lost as soon as writing works."""


class OutboxFullError(OutboxError):
    """No room: the disk is full, or the lane is and may not drop anything (audit)."""


class OutboxReadOnlyError(OutboxError):
    """The disk is mounted read-only."""


@dataclass(frozen=True, slots=True)
class Row:
    """An unsettled row. `payload` is the message to publish, final; `seq` grows within a lane, over its spools too."""

    lane: str
    spool: str
    seq: int
    stream: str
    kind: str
    payload: bytes


@dataclass(slots=True)
class LaneState:
    """The books of one lane: produced = settled + lost + its pending rows.

    `seq` is the highest number given; `floor` the highest below which nothing is pending; `acknowledged` counts losses whose
    record was settled; `booked` those failed appends (the mirror counts them for ever) that are in these books already.
    """

    lane: str
    spool: str
    seq: int = 0
    produced: int = 0
    settled: int = 0
    lost: int = 0
    acknowledged: int = 0
    floor: int = 0
    booked: int = 0
    pending_bytes: int = 0
    history_bytes: int = 0


@dataclass(slots=True, eq=False)
class Append:
    """One caller's events on their way into a shared commit; `kept`: the caller has them until they are stored."""

    lane: str
    events: Sequence[Event]
    kept: bool = False
    done: bool = False
    numbers: list[int] = field(default_factory=list)
    error: OutboxError | None = None


class Rules(Config):
    """What a store must know of the rest of the agent."""

    model_config = {"arbitrary_types_allowed": True, "frozen": True}

    device: str
    outbox: str = ""
    """See Mirror.identity."""
    host: str
    clock: Clock
    limits: dict[str, LaneSettings]
    """Of the lanes that evict and expire."""
    audit_bytes: int
    history_bytes: int
    history_age_s: float


def new_spool() -> str:
    """A random name for a spool: 64 bits in hex."""
    return secrets.token_hex(8)
