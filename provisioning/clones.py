"""Two devices with one identity: the broker lets only one of them in at a time, so that their births alternate."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from agent import wire

REMEMBERED = 8
DEVICES = 100_000
WITHIN_S, TOO_MANY = 60.0, 6
AGAIN_S = 3600.0
"""So long one suspicion of a device holds: it would come at each of their births."""


@dataclass
class _Seen:
    boots: list[str] = field(default_factory=list)
    births: deque[float] = field(default_factory=lambda: deque(maxlen=TOO_MANY))
    session: str = ""
    told: float = -AGAIN_S


class Clones:
    """Fed with what is published on status topics."""

    def __init__(self) -> None:
        self._devices: OrderedDict[str, _Seen] = OrderedDict()

    def status(self, topic: str, payload: bytes, now: float | None = None) -> str:
        """Why two devices may share the identity; empty for no suspicion, or none that is new within an hour.

        A device that was started anew never comes back to an earlier boot id; and one that is alone does not connect six times in a minute.
        """
        try:
            device = wire.parse(topic).device
            birth = wire.decode(wire.Birth, payload)
        except wire.WireError:
            return ""
        seen = self._devices.setdefault(device, _Seen())
        self._devices.move_to_end(device)
        if len(self._devices) > DEVICES:
            self._devices.popitem(last=False)
        if birth.state != "online" or birth.session == seen.session:
            return ""
        seen.session = birth.session
        now = time.monotonic() if now is None else now
        seen.births.append(now)
        known = birth.boot_id in seen.boots[:-1]
        if birth.boot_id in seen.boots:
            seen.boots.remove(birth.boot_id)
        seen.boots = [*seen.boots, birth.boot_id][-REMEMBERED:]
        suspicion = ""
        if known:
            suspicion = "two machines take turns under this name: one identity was copied"
        elif len(seen.births) == TOO_MANY and now - seen.births[0] < WITHIN_S:
            suspicion = f"{TOO_MANY} connections within {now - seen.births[0]:.0f} s: two agents may be using this name"
        if not suspicion or now - seen.told < AGAIN_S:
            return ""
        seen.told = now
        return suspicion
