"""Where a box is going: four independent constant-velocity Kalman filters (Kalman 1960; the state of SORT, Bewley et al. 2016)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Box = NDArray[np.float32]
"""x1, y1, x2, y2 in pixels."""

POSITION_NOISE = 0.05
"""Standard deviation of a detector's box side, in box sizes."""
ACCELERATION = 3.0
"""Standard deviation of a face's acceleration, in box sizes per second squared."""
FIRST_SPEED = 1.0
"""Standard deviation of the speed of a face that was seen once, in box sizes per second."""
MEMORY_S = 0.7
"""Time constant with which a speed is forgotten while nothing is measured."""


class Motion:
    """Centre, width and height of a box, each with its speed. Steps may differ in length: frame rates do.

    The four filters see the same noise, so that they share one covariance. Plain floats: arrays of four cost more than they save.
    """

    __slots__ = ("_cross", "_place", "_speed", "_speed_spread", "_spread")

    def __init__(self, box: Box) -> None:
        self._place = _centred(box)
        self._speed = [0.0, 0.0, 0.0, 0.0]
        self._spread = (POSITION_NOISE * self._size) ** 2
        self._cross = 0.0
        self._speed_spread = (FIRST_SPEED * self._size) ** 2

    @property
    def _size(self) -> float:
        return max((self._place[2] + self._place[3]) / 2, 1.0)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The estimate now: x1, y1, x2, y2."""
        x, y, width, height = self._place
        half_width, half_height = max(width, 1.0) / 2, max(height, 1.0) / 2
        return x - half_width, y - half_height, x + half_width, y + half_height

    def predict(self, seconds: float) -> None:
        """Carry the estimate on. A speed that nothing confirms fades, so that a lost box does not fly away."""
        fade = math.exp(-seconds / MEMORY_S)
        travel = MEMORY_S * (1.0 - fade)
        power = (ACCELERATION * self._size) ** 2
        self._place = [place + travel * speed for place, speed in zip(self._place, self._speed, strict=True)]
        self._speed = [fade * speed for speed in self._speed]
        self._spread += 2 * travel * self._cross + travel**2 * self._speed_spread + power * seconds**4 / 4
        self._cross = fade * (self._cross + travel * self._speed_spread) + power * seconds**3 / 2
        self._speed_spread = fade**2 * self._speed_spread + power * seconds**2

    def correct(self, box: Box) -> None:
        """Take a measured box in."""
        errors = [measured - place for measured, place in zip(_centred(box), self._place, strict=True)]
        total = self._spread + (POSITION_NOISE * self._size) ** 2
        gain, speed_gain = self._spread / total, self._cross / total
        self._place = [place + gain * error for place, error in zip(self._place, errors, strict=True)]
        self._speed = [speed + speed_gain * error for speed, error in zip(self._speed, errors, strict=True)]
        self._speed_spread -= speed_gain * self._cross
        self._cross *= 1.0 - gain
        self._spread *= 1.0 - gain


def _centred(box: Box) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
