"""What the page needs of the rest of the uplink process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent.audit import AuditLane
from agent.settings import Settings


class History(AuditLane, Protocol):
    """The side of the outbox that the page reads, and where it records changes."""

    def history(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        stream: str | None = None,
        kind: str | None = None,
        limit: int = 100,
        newest_first: bool = True,
        before: tuple[float, int] | None = None,
        after_seq: int | None = None,
    ) -> list[dict[str, Any]]:
        """Decoded envelopes, settled ones too, by time of capture and number (`until` and `before` are excluded).

        With `after_seq` by number, oldest first.
        """
        ...

    def stats(self) -> Mapping[str, Any]:
        """Per lane: seq, pending, bytes, oldest_age_s, produced, settled, lost, dead, alarm …"""
        ...


class BrokerStatus(Protocol):
    """How the connection to the broker is doing."""

    @property
    def state(self) -> str:
        """off, connecting, connected, refused or waiting"""
        ...

    @property
    def text(self) -> str:
        """One sentence for people; never holds a secret."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Everything that is known, for JSON; `state`, `text` and `published` at least."""
        ...


@dataclass(frozen=True)
class WebContext:
    """Everything the page is given. `telemetry` returns the newest snapshot of the host, quickly."""

    settings: Settings
    outbox: History
    broker: BrokerStatus
    telemetry: Callable[[], Mapping[str, Any]]
