"""What the page needs of the rest of the uplink process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent.outbox import Outbox
from agent.settings import Settings


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
    """Everything the page is given. `telemetry` returns the newest snapshot of the host, quickly; `reloaded` hears of a reload."""

    settings: Settings
    outbox: Outbox
    broker: BrokerStatus
    telemetry: Callable[[], Mapping[str, Any]]
    reloaded: Callable[[], None] = lambda: None
