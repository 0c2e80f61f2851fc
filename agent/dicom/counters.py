"""What the DICOM process counts and times, written to a file that the others read."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from agent.timing import StageTimes
from engines.files import replacing

COUNTS = ("accepted", "duplicates", "decoded", "built", "answered", "rejected", "unreachable", "dead")
STEPS = ("store", "decode", "build", "send")
"""store: an instance, durable. decode, build: a job of the worker. send: all objects of an answer."""


class Counters:
    """Counts since the process started. Several threads use it; nothing in it is of a patient."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counter(dict.fromkeys(COUNTS, 0))
        self._refused: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self.times = StageTimes(STEPS)

    def count(self, what: str) -> None:
        """One more of `what`."""
        with self._lock:
            self._counts[what] += 1

    def accepted(self, duplicate: bool) -> None:
        """An instance that was acknowledged."""
        self.count("duplicates" if duplicate else "accepted")

    def refused(self, reason: str) -> None:
        """An instance, or a caller, that was not taken."""
        with self._lock:
            self._refused[reason] += 1

    def failed(self, reason: str) -> None:
        """An accepted instance that came to nothing."""
        with self._lock:
            self._failed[reason] += 1

    def figures(self) -> dict[str, Any]:
        """All of them."""
        with self._lock:
            counted = {**self._counts, "refused": dict(self._refused), "failed": dict(self._failed)}
        return {**counted, "seconds": self.times.percentiles()}

    def write(self, path: Path, **more: Any) -> None:
        """To a file that appears as a whole. Raises OSError."""
        with replacing(path, durable=False) as part:
            part.write_text(json.dumps(self.figures() | more), encoding="utf-8")
