"""Tells the hub how monotonic and wall time relate, once the wall clock can be trusted."""

from __future__ import annotations

import logging

from agent.clock import Clock
from agent.datatypes import Event
from agent.outbox import Outbox, OutboxError

log = logging.getLogger(__name__)


class ClockWatch:
    """`look` appends a clock record each time the clock has become synchronised, and at the start if it is so already."""

    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock
        self._was = False

    def look(self) -> None:
        """Call it every few seconds."""
        now = self._clock.synchronised()
        if now and not self._was:
            wall, mono_ns = self._clock.wall(), self._clock.mono_ns()
            try:
                self._outbox.append("clock", [Event("", "clock", {"mono_ns": mono_ns, "wall": wall}, wall, mono_ns)])
            except OutboxError as error:
                log.error("the clock record could not be kept; trying again: %s", error)
                return
        self._was = now
