"""Whether the vision process gets on with other settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.remote import Wish
from agent.settings import Settings
from agent.uplink.vision_link import ANSWERS_WITHIN_S, VisionError, VisionLink, VisionRefusedError

WELL = ("running", "frozen", "covered", "finished")
"""States of a stream that delivers pictures, or has delivered all of them."""
OF_ALL = ("engines", "gallery")
"""Sections that concern every stream."""


@dataclass(frozen=True)
class Patience:
    """Seconds. `ready_s`: until all is well, models being built among it; `failing_s`: a stream that fails for so long is not waited for;
    `steady_s`: all must be well for so long; `look_s`, `idle_s`: between two looks, in a trial and else."""

    ready_s: float = 300.0
    failing_s: float = 30.0
    steady_s: float = 3.0
    look_s: float = 0.5
    idle_s: float = 5.0


PATIENCE = Patience()


class Trial:
    """Of one wish. What must be well: the streams that are new or other than before, and those that were well when it began."""

    def __init__(self, vision: VisionLink, wish: Wish, before: Settings, after: Settings, patience: Patience) -> None:
        """Raises VisionError where the vision process does not answer."""
        self._vision = vision
        self._wish = wish
        self._patience = patience
        self._pid = vision.get("/health")["pid"]
        well = {one["stream"] for one in vision.get("/streams") if one["state"] in WELL}
        anew = any(getattr(before, name) != getattr(after, name) for name in OF_ALL)
        self._judged = {stream.name for stream in after.streams if stream not in before.streams or stream.name in well}
        self._all = frozenset(stream.name for stream in after.streams) if anew else frozenset()
        self._failing: dict[str, float] = {}
        self._well_since: float | None = None

    def run(self, ended: Callable[[], bool]) -> list[str] | None:
        """Nothing: all is well; or what is not; None where it `ended`, or something came between, so that nothing is known.

        Raises VisionRefusedError where the vision process does not even begin.
        """
        began, answered = time.monotonic(), not ended() and self._begin()
        while not ended():
            now = time.monotonic()
            try:
                health = self._vision.get("/health")
                tried = health["in_force"]["wish"] == self._wish.mark
                if health["pid"] != self._pid or (not tried and (answered or now - began > 3 * ANSWERS_WITHIN_S)):
                    return None
                if tried and (verdict := self._verdict({one["stream"]: one for one in self._vision.get("/streams")}, now)) is not None:
                    return verdict
            except VisionError:
                self._well_since = None
            if now - began > self._patience.ready_s:
                return [f"not everything was ready within {self._patience.ready_s:.0f} s; see the log of the vision process"]
            time.sleep(self._patience.look_s)
        return None

    def _begin(self) -> bool:
        """Whether it has answered; it may only have been slow."""
        try:
            self._vision.post("/settings", self._wish.as_json())
        except VisionRefusedError:
            raise
        except VisionError:
            return False
        return True

    def _verdict(self, streams: Mapping[str, Mapping[str, Any]], now: float) -> list[str] | None:
        """None: not yet."""
        found = {name: streams[name] for name in self._judged if name in streams}
        found |= {name: one for name, one in streams.items() if name in self._all and one["code"] == "TASK_FAILED"}
        failing = {name: one for name, one in found.items() if one["state"] == "failed"}
        self._failing = {name: self._failing.get(name, now) for name in failing}
        if any(now - since >= self._patience.failing_s for since in self._failing.values()):
            return [f"stream {name}: {one['code']}: {one['detail']}" for name, one in sorted(failing.items())]
        if len(found) < len(self._judged) or any(one["state"] not in WELL for one in found.values()):
            self._well_since = None
            return None
        self._well_since = self._well_since or now
        return [] if now - self._well_since >= self._patience.steady_s else None
