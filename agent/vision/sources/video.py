"""A video file, at its own pace or as fast as it decodes.

OpenCV decodes: on files of 640x360 it was as fast as PyAV with frame threads and conversion, and needs no second FFmpeg.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Literal

from pydantic import Field

from agent.config import Config, ExistingFile
from agent.datatypes import Frame
from agent.errors import SourceError
from agent.vision.base import Source

log = logging.getLogger(__name__)

COMPLETE = 0.9
"""The share of the announced frames below which a file that ends counts as damaged (counts in containers are estimates)."""
LATE_S = 1.0


class VideoConfig(Config):
    """A video file."""

    type: Literal["video"] = "video"
    path: ExistingFile = Field(description="The file; any container and codec that FFmpeg knows.")
    pace: Literal["real", "fast"] = Field(
        "real", description="`real`: at the recording's own speed; `fast`: as fast as it can be processed."
    )
    loop: bool = Field(False, description="Start again at the end, for ever.")


class VideoSource(Source):
    """Frames of a file, each exactly once.

    `captured_at` is the time of opening plus the position in the recording; `mono_ns` is when the frame was due,
    or at pace `fast` asked for.
    """

    Config = VideoConfig
    config: VideoConfig

    def __init__(self, config: VideoConfig, stream: str) -> None:
        super().__init__(config, stream)
        self._capture: Any = None
        self._index = 0
        self._in_round = 0
        self._rate = 0.0
        self._announced = 0
        self._position_s = 0.0
        self._round_start_s = 0.0
        self._opened_at = 0.0
        self._opened_mono_ns = 0
        self._interrupted = threading.Event()

    @property
    def finite(self) -> bool:
        return True

    @property
    def expected_per_second(self) -> float | None:
        return self._rate if self.config.pace == "real" and self._rate > 0 else None

    def open(self) -> None:
        self._round_start_s = 0.0
        self._begin_round()
        self._opened_at, self._opened_mono_ns = time.time(), time.monotonic_ns()

    def read(self) -> Frame | None:
        asked_ns = time.monotonic_ns()
        ok, image = self._capture.read()
        if not ok:
            self._check_complete()
            if not self.config.loop:
                return None
            self._round_start_s += self._position_s + 1 / (self._rate or 25.0)
            self._begin_round()
            ok, image = self._capture.read()
            if not ok:
                raise self._damaged("it held frames before and now holds none")
        self._advance()
        played_s = self._round_start_s + self._position_s
        if self.config.pace == "real":
            self._wait_until_due(played_s)
            asked_ns = self._opened_mono_ns + int(played_s * 1e9)
        if self._interrupted.is_set():
            return None
        frame = Frame(
            image,
            self.stream,
            self._index,
            self._opened_at + played_s,
            asked_ns,
            media_s=self._position_s,
        )
        self._index += 1
        return frame

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _begin_round(self) -> None:
        import cv2

        self.close()
        if not self.config.path.is_file():
            raise SourceError("STREAM_NOT_FOUND", f"there is no file {self.config.path}")
        self._capture = cv2.VideoCapture(str(self.config.path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            self.close()
            raise SourceError(
                "STREAM_CODEC_UNSUPPORTED",
                f"{self.config.path} is not a video that FFmpeg can decode, or it is damaged; `ffprobe` tells more",
                fatal=True,
            )
        self._rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self._announced = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self._in_round = 0
        self._position_s = 0.0

    def _advance(self) -> None:
        """Carry the position to the frame just read: its time stamp, or one frame on where the file gives none that grows."""
        import cv2

        stamp = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        if self._in_round and stamp <= self._position_s:
            stamp = self._position_s + 1 / (self._rate or 25.0)
        self._position_s = stamp
        self._in_round += 1

    def _check_complete(self) -> None:
        if self._in_round == 0 or self._in_round < COMPLETE * self._announced:
            raise self._damaged(f"it ends after {self._in_round} of {self._announced} frames")
        if self._in_round < self._announced:
            log.warning("%s: %s announces %d frames and gave %d", self.stream, self.config.path, self._announced, self._in_round)

    def _damaged(self, reason: str) -> SourceError:
        return SourceError("STREAM_DAMAGED", f"{self.config.path} is damaged: {reason}", fatal=not self.config.loop)

    def _wait_until_due(self, played_s: float) -> None:
        """Sleep until the frame is due. When playing fell more than a second behind, go on from there instead of rushing."""
        ahead_s = played_s - (time.monotonic_ns() - self._opened_mono_ns) / 1e9
        if ahead_s > 0:
            self._interrupted.wait(ahead_s)
        elif ahead_s < -LATE_S:
            self._opened_mono_ns -= int(ahead_s * 1e9)
            self._opened_at -= ahead_s
