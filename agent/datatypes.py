"""What travels through the agent: frames in, events out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Image: TypeAlias = "NDArray[np.uint8]"
"""(H, W, 3) uint8, blue-green-red, rows from the top."""

MAX_NAME = 100
"""Characters that the name of a person may have."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture from a source.

    `captured_at` is Unix time in seconds (UTC), `mono_ns` the monotonic clock in nanoseconds at the same moment,
    `media_s` seconds from the start of a recorded medium (None for live ones).
    `item` names the unit of a finite source that is marked done once its events are committed (a file's key).
    `about` is what else its source knows of it, for the task that goes with that source: such a frame is no
    live picture for anybody's eyes.
    """

    image: Image
    stream: str
    index: int
    captured_at: float
    mono_ns: int
    media_s: float | None = None
    item: str | None = None
    about: object = None

    @property
    def clock_s(self) -> float:
        """Seconds that do not jump when somebody sets the clock: the recording's own, else monotonic."""
        return self.media_s if self.media_s is not None else self.mono_ns / 1e9


@dataclass(frozen=True, slots=True)
class Event:
    """A fact, before the outbox gives it a sequence number.

    `key`, where given, is derived from the input: a second append with the same key is the same event and is not stored twice.
    """

    stream: str
    kind: str
    data: Mapping[str, Any]
    captured_at: float
    mono_ns: int
    model: str = ""
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """What the live picture draws over a frame: box in pixels of the frame (x1, y1, x2, y2)."""

    box: tuple[float, float, float, float]
    label: str
    score: float
    known: bool = False
    track: str = ""


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """How a stream is doing. Rates are frames per second over the last ten seconds; counts since the start unless named.

    `code` is one of the stable codes (`STREAM_TIMEOUT` …) while something is wrong, else "".
    `quality` is excellent, fair, poor or unusable; empty for files and folders, which have no connection.
    """

    stream: str
    state: str
    """connecting, running, frozen, covered, failed, finished"""
    code: str = ""
    detail: str = ""
    captured: int = 0
    processed: int = 0
    skipped: int = 0
    failed: int = 0
    captured_per_second: float = 0.0
    processed_per_second: float = 0.0
    skipped_per_second: float = 0.0
    expected_per_second: float | None = None
    reconnects_last_hour: int = 0
    stalls_last_hour: int = 0
    quality: str = "unusable"
    width: int = 0
    height: int = 0
    last_frame_at: float | None = None
