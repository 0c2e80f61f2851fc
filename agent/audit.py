"""Who changed what on this device, for the audit lane. Ids only: no names, consent notes or addresses."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent import wire
from agent.datatypes import Event
from agent.outbox import OutboxError

log = logging.getLogger(__name__)


class AuditLane(Protocol):
    """The side of the outbox that is written here."""

    def append(self, lane: str, events: Sequence[Event]) -> list[int]:
        """See Outbox."""
        ...


@dataclass
class Entry:
    """What is recorded when a change is over. `detail` may be added to, `outcome` set, while it runs."""

    outcome: str = "done"
    detail: dict[str, Any] = field(default_factory=dict)


def record(outbox: AuditLane, actor: str, action: str, outcome: str, detail: Mapping[str, Any]) -> None:
    """Durable when it returns. Raises OutboxFullError or OutboxError."""
    data = wire.Audit(action=action, actor=actor, outcome=outcome, detail=dict(detail))
    outbox.append("audit", [Event("", "audit", data.model_dump(), time.time(), time.monotonic_ns())])


@contextmanager
def audited(outbox: AuditLane, actor: str, action: str, **detail: Any) -> Iterator[Entry]:
    """Records that a change begins (`accepted`) and how it ends (`done`, `failed`).

    Raises OutboxFullError or OutboxError before the change if it cannot be recorded, and then it must not be made.
    """
    entry = Entry(detail=dict(detail))
    record(outbox, actor, action, "accepted", entry.detail)
    try:
        yield entry
    except BaseException:
        entry.outcome = "failed"
        raise
    finally:
        try:
            record(outbox, actor, action, entry.outcome, entry.detail)
        except OutboxError as error:
            log.error("the outcome of “%s” could not be recorded: %s", action, error)
