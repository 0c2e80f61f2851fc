"""Tells the hub how monotonic and wall time relate, once the wall clock can be trusted."""

from __future__ import annotations

import logging

from agent.clock import Clock
from agent.datatypes import Event
from agent.outbox import Outbox, OutboxError

log = logging.getLogger(__name__)


STEP_S = 0.5


class ClockWatch:
    """`look` appends a clock record each time the clock has become synchronised or was stepped since, and at the start if it is so
    already."""

    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock
        self._offset_s: float | None = None

    def look(self) -> None:
        """Call it every few seconds."""
        if not self._clock.synchronised():
            self._offset_s = None
            return
        wall, mono_ns = self._clock.wall(), self._clock.mono_ns()
        offset_s = wall - mono_ns / 1e9
        if self._offset_s is not None and abs(offset_s - self._offset_s) <= STEP_S:
            return
        try:
            self._outbox.append("clock", [Event("", "clock", {"mono_ns": mono_ns, "wall": wall}, wall, mono_ns)])
            self._offset_s = offset_s
        except OutboxError as error:
            log.error("the clock record could not be kept; trying again: %s", error)
