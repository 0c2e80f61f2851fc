"""Whether the processor is slowed down by heat or power, where the host says so.

A Raspberry Pi's firmware has flags; an x86 processor counts the times that heat slowed it down
(Linux, Documentation/admin-guide/thermal), a Jetson those of over-current (Jetson Linux, "Over-current throttling").
"""

from __future__ import annotations

from pathlib import Path

from agent.raspberry_pi import THROTTLED, slowed_now

COUNTERS = {
    "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count": "heat",
    "sys/class/hwmon/hwmon*/oc*_event_cnt": "over-current",
}


class Throttling:
    """`root` is the host's; counters are compared with those of the last call."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._counts: dict[str, int] = {}

    def read(self) -> str | None:
        """What slows it down, in words; empty: nothing. None where the host does not say."""
        flags = self._flags()
        counted = [self._counted(pattern, why) for pattern, why in COUNTERS.items()]
        told = [text for text in (flags, *counted) if text is not None]
        return "; ".join(filter(None, told)) if told else None

    def _flags(self) -> str | None:
        try:
            return slowed_now(int((self._root / THROTTLED).read_text(), 16))
        except (OSError, ValueError):
            return None

    def _counted(self, pattern: str, why: str) -> str | None:
        found = []
        for file in self._root.glob(pattern):
            try:
                found.append(int(file.read_text()))
            except (OSError, ValueError):
                continue
        if not found:
            return None
        before, self._counts[pattern] = self._counts.get(pattern, sum(found)), sum(found)
        more = sum(found) - before
        return f"{why} slowed it down {more} times since the last sample" if more > 0 else ""
