"""Small sources and tasks, written against the plug-in interface as anybody may."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agent.config import Config
from agent.datatypes import Annotation, Event, Frame
from agent.errors import SourceError
from agent.vision.base import Source, Task


def frame(index: int, item: str | None = None) -> Frame:
    """A picture of noise."""
    image = np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8)
    return Frame(image, "cam", index, time.time(), time.monotonic_ns(), item=item)


class Items(Source):
    """Finite: `count` items, named by their number. Keeps what it was told about them."""

    Config = Config
    finite = True

    def __init__(self, count: int) -> None:
        super().__init__(Config(), "cam")
        self._left = iter(range(count))
        self.marks: dict[str, str] = {}

    def open(self) -> None:
        """Nothing to open."""

    def read(self) -> Frame | None:
        index = next(self._left, None)
        return None if index is None else frame(index, str(index))

    def done(self, item: str) -> None:
        self.marks[item] = "done"

    def failed(self, item: str, reason: str) -> None:
        self.marks[item] = reason

    def close(self) -> None:
        """Nothing to close."""


class Camera(Source):
    """Live: frames as the test lets them come; the loss of the connection too."""

    Config = Config
    finite = False

    def __init__(self) -> None:
        super().__init__(Config(), "cam")
        self._coming: queue.SimpleQueue[Frame | SourceError | None] = queue.SimpleQueue()
        self.taken = 0

    def give(self, count: int) -> None:
        """So many frames."""
        for _ in range(count):
            self._coming.put(frame(self.taken))
            self.taken += 1

    def fail(self, problem: SourceError) -> None:
        """The next read raises."""
        self._coming.put(problem)

    def open(self) -> None:
        """Nothing to open."""

    def read(self) -> Frame | None:
        found = self._coming.get()
        if isinstance(found, SourceError):
            raise found
        return found

    def interrupt(self) -> None:
        self._coming.put(None)

    def close(self) -> None:
        """Nothing to close."""


class Counting(Task):
    """One event per frame with the frame's number; an `end` at a flush. `trouble` raises what it likes."""

    Config = Config

    def __init__(self, parallel: int = 1, trouble: Callable[[Frame], None] = lambda frame: None) -> None:
        self.parallel = parallel
        self.trouble = trouble
        self.updated: list[int] = []
        self.closed = 0
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def infer(self, frame: Frame) -> int:
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.trouble(frame)
        finally:
            with self._lock:
                self.at_once -= 1
        return frame.index

    def update(self, frame: Frame, prediction: int) -> list[Event]:
        assert prediction == frame.index
        self.updated.append(frame.index)
        key = f"item:{frame.item}" if frame.item else None
        return [Event(frame.stream, "count", {"n": frame.index}, frame.captured_at, frame.mono_ns, key=key)]

    def flush(self, captured_at: float, mono_ns: int, reason: str) -> list[Event]:
        return [Event("cam", "end", {"reason": reason}, captured_at, mono_ns)]

    def metrics(self) -> dict[str, float]:
        return {"counted_total": len(self.updated)}

    def close(self) -> None:
        self.closed += 1


class NoViewer:
    """Keeps the numbers of the frames that were shown."""

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.forgotten = 0

    def offer(self, frame: Frame, annotations: Sequence[Annotation]) -> None:
        self.shown.append(frame.index)

    def forget(self) -> None:
        self.forgotten += 1


def told(envelopes: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The data of all events of a kind."""
    return [one["data"] for one in envelopes if one["kind"] == kind]
