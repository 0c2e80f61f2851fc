"""How a stream is doing: is the picture alive, how many frames a second, how often did it break."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from agent.config import Config
from agent.datatypes import Image

HOUR = 3600.0
RATE_WINDOW = 10
SAMPLES = 72
"""Sampled pixels along each side of a picture."""
BLOCK = 6
STILL_MEAN = 0.45
STILL_LEVELS, STILL_SHARE = 2, 0.035
MOVED_LEVELS, MOVED_SHARE = 16, 0.001
UNIFORM_DEVIATION = 6.0


class HealthSettings(Config):
    """When a live stream counts as broken although it is connected. 0 switches a check off."""

    stale_after_s: float = Field(10.0, ge=0, description="No frame for this long: STREAM_TIMEOUT.")
    frozen_after_s: float = Field(20.0, ge=0, description="The same picture again and again for this long: STREAM_FROZEN.")
    covered_after_s: float = Field(5.0, ge=0, description="A dark or uniform picture for this long: STREAM_COVERED.")
    check_period_s: float = Field(0.2, gt=0, description="At most one picture in this time is looked at.")


def sample(image: Image) -> NDArray[np.int16]:
    """At most 72 x 72 pixels of the green channel, without averaging, so that sensor noise stays visible."""
    height, width = image.shape[:2]
    return image[:: max(1, -(-height // SAMPLES)), :: max(1, -(-width // SAMPLES)), 1].astype(np.int16)


def still(first: NDArray[np.int16], second: NDArray[np.int16]) -> bool:
    """Whether two samples show one picture, up to what an encoder does to it.

    Measured with x264 at 1280x720 and 10 pictures a second, against the picture of 2 s after the start: one picture sent again and
    again differs by at most 0.38 levels in the mean and by more than 2 levels in 3.1 % of the pixels (CRF 23 and 30, 1.5 Mbit/s);
    a static scene with sensor noise of half a level in 255 reaches 0.71 and 4.9 % within 6 s. Something small that moves changes
    few pixels, but by much: a share of 0.1 % is life.
    """
    if first.shape != second.shape:
        return False
    difference = np.abs(first - second)
    return bool(
        difference.mean() < STILL_MEAN
        and (difference > STILL_LEVELS).mean() < STILL_SHARE
        and (difference > MOVED_LEVELS).mean() < MOVED_SHARE
    )


def uniform(pixels: NDArray[np.int16]) -> bool:
    """Whether a sample is dark or of one colour all over: block means, which suppress noise, deviate by less than 6 levels."""
    rows, columns = (side - side % BLOCK for side in pixels.shape)
    if not rows or not columns:
        return False
    blocks = pixels[:rows, :columns].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK).mean(axis=(1, 3))
    return bool(blocks.std() < UNIFORM_DEVIATION)


class PictureHealth:
    """Tells a frozen picture and a covered lens from a living one. Times are monotonic seconds."""

    def __init__(self, settings: HealthSettings) -> None:
        self._settings = settings
        self.reset()

    def reset(self) -> None:
        """Forget everything: the stream starts anew."""
        self._next_check = float("-inf")
        self._reference: NDArray[np.int16] | None = None
        self._still_since = 0.0
        self._uniform_since: float | None = None
        self._verdict = ""

    def judge(self, image: Image, now: float) -> str:
        """ "" for a living picture, else `frozen` or `covered`."""
        if now >= self._next_check:
            self._next_check = now + self._settings.check_period_s
            pixels = sample(image)
            covered, frozen = self._covered(pixels, now), self._frozen(pixels, now)
            self._verdict = "covered" if covered else "frozen" if frozen else ""
        return self._verdict

    def _covered(self, pixels: NDArray[np.int16], now: float) -> bool:
        if not uniform(pixels):
            self._uniform_since = None
            return False
        if self._uniform_since is None:
            self._uniform_since = now
        limit = self._settings.covered_after_s
        return limit > 0 and now - self._uniform_since >= limit

    def _frozen(self, pixels: NDArray[np.int16], now: float) -> bool:
        if self._reference is None or not still(self._reference, pixels):
            self._reference, self._still_since = pixels, now
            return False
        limit = self._settings.frozen_after_s
        return limit > 0 and now - self._still_since >= limit


class Rate:
    """Counts, in all and a second over the last ten seconds. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.total = 0
        self._first: float | None = None
        self._buckets: deque[list[int]] = deque(maxlen=RATE_WINDOW + 1)

    def add(self, now: float) -> None:
        """One more."""
        self.total += 1
        if self._first is None:
            self._first = now
        second = int(now)
        if self._buckets and self._buckets[-1][0] == second:
            self._buckets[-1][1] += 1
        else:
            self._buckets.append([second, 1])

    def per_second(self, now: float) -> float:
        """The mean over the last ten seconds, or since the first count if that is shorter (at least one second)."""
        if self._first is None:
            return 0.0
        recent = sum(count for second, count in self._buckets if second > now - RATE_WINDOW)
        return recent / min(float(RATE_WINDOW), max(1.0, now - self._first))


class LastHour:
    """How often something happened in the last hour. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=10_000)

    def add(self, now: float) -> None:
        """It happened."""
        self._times.append(now)

    def count(self, now: float) -> int:
        """How often since an hour ago."""
        while self._times and self._times[0] < now - HOUR:
            self._times.popleft()
        return len(self._times)


def quality(state: str, breaks: int, rate: float, expected: float | None) -> str:
    """excellent, fair, poor or unusable, from reconnects and stalls in the last hour and the share of expected frames that came."""
    if state not in ("running", "finished"):
        return "unusable"
    share = rate / expected if expected and state == "running" else 1.0
    if breaks == 0 and share >= 0.9:
        return "excellent"
    return "fair" if breaks <= 5 and share >= 0.6 else "poor"
