"""Desired settings of a device that has nothing to be set."""

from __future__ import annotations

from typing import Any

from agent import wire


class SimulatedSettings:
    """Says that they hold as soon as they come."""

    def __init__(self) -> None:
        self._revision: int | None = None

    def submit(self, payload: bytes) -> None:
        """See agent.uplink.commands.Desires."""
        self._revision = wire.decode(wire.Desired, payload).revision if payload else None

    def reported(self) -> dict[str, Any]:
        """See agent.uplink.commands.Desires."""
        return {"revision": self._revision}
