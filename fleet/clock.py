"""Whether this machine's clock can be believed: devices whose own clocks are synchronised say so, and what was stored before."""

from __future__ import annotations

import time
from collections.abc import Iterable
from statistics import median

from agent.clock import kernel_synchronised
from fleet.store.batch import Row
from fleet.store.clocks import FLOOR

LOOKS_EVERY_S = 10.0
WINDOW_S = 300.0
JUMP_S = 60.0
SETTLES_S = 90.0
"""After the clock was set, devices have so long to be heard before anything is made of their silence."""
BEHIND_S = 60.0
AHEAD_S = 3600.0
"""What comes from an outbox is late, too: that the hub is ahead is believed only of so much."""
ENOUGH = 3
"""Devices that are believed against a clock that the kernel calls synchronised."""


class HubClock:
    """One thread calls `hear` and `look`; any may read `trouble`."""

    def __init__(self, newest: float | None = None) -> None:
        """`newest`: when the newest row that is stored has arrived, Unix seconds."""
        self.trouble = ""
        """Why it is not believed, in a sentence; empty while it is."""
        self._newest = newest
        self._offsets: dict[str, tuple[float, float]] = {}
        self._read: tuple[float, float] | None = None
        self._looked = self._jumped = float("-inf")
        self._by = 0.0

    def hear(self, rows: Iterable[Row]) -> None:
        """What devices with synchronised clocks say. Of each the quickest message of a while counts: it was least under way."""
        at = time.monotonic()
        for row in rows:
            if row.lane == "telemetry" and row.envelope.clock == "synced":
                offset = row.envelope.captured_at - row.received_at
                since, known = self._offsets.get(row.device, (float("-inf"), offset))
                if offset >= known or at - since > WINDOW_S:
                    self._offsets[row.device] = (at, offset)

    def look(self, now: float, running: float) -> None:
        """Judge it; `running` is a monotonic clock, seconds."""
        if self._read is not None:
            by = (now - self._read[0]) - (running - self._read[1])
            if abs(by) > JUMP_S:
                self._by, self._jumped, self._looked = by, running, float("-inf")
                self._offsets.clear()
        self._read = (now, running)
        if running - self._looked > LOOKS_EVERY_S:
            self._looked = running
            self.trouble = self._judged(now, running)

    def _judged(self, now: float, running: float) -> str:
        if now < FLOOR:
            return f"this machine's clock says {time.strftime('%Y-%m-%d', time.gmtime(max(now, 0.0)))}: set it"
        at = time.monotonic()
        self._offsets = {device: one for device, one in self._offsets.items() if at - one[0] <= WINDOW_S}
        offsets = [offset for _, offset in self._offsets.values()]
        if offsets and (len(offsets) >= ENOUGH or not kernel_synchronised()):
            off = median(offsets)
            if off > BEHIND_S or off < -AHEAD_S:
                way = "behind" if off > 0 else "ahead of"
                return f"this machine's clock is {abs(off):.0f} s {way} that of its devices ({len(offsets)} were asked): set it"
        elif not offsets and self._newest is not None and now < self._newest - AHEAD_S:
            return f"this machine's clock is {self._newest - now:.0f} s behind what it has stored last: set it"
        if running - self._jumped < SETTLES_S:
            return f"this machine's clock was set by {self._by:.0f} s just now; devices are judged again in a moment"
        return ""
