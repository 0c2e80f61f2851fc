"""Where a box is going: four independent constant-velocity Kalman filters (Kalman 1960; the state of SORT, Bewley et al. 2016)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Box = NDArray[np.float64]
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
    """Centre, width and height of a box, each with its speed. Steps may differ in length: frame rates do."""

    __slots__ = ("_cross", "_place", "_speed", "_speed_spread", "_spread")

    def __init__(self, box: Box) -> None:
        self._place = _centred(box)
        self._speed = np.zeros(4)
        size = self._size
        self._spread = np.full(4, (POSITION_NOISE * size) ** 2)
        self._speed_spread = np.full(4, (FIRST_SPEED * size) ** 2)
        self._cross = np.zeros(4)

    @property
    def _size(self) -> float:
        return max(float(self._place[2] + self._place[3]) / 2, 1.0)

    @property
    def box(self) -> Box:
        """The estimate now."""
        x, y, width, height = self._place
        half_width, half_height = max(width, 1.0) / 2, max(height, 1.0) / 2
        return np.array([x - half_width, y - half_height, x + half_width, y + half_height])

    def predict(self, seconds: float) -> None:
        """Carry the estimate on. A speed that nothing confirms fades, so that a lost box does not fly away."""
        fade = float(np.exp(-seconds / MEMORY_S))
        travel = MEMORY_S * (1.0 - fade)
        self._place = self._place + travel * self._speed
        self._speed = fade * self._speed
        power = (ACCELERATION * self._size) ** 2
        self._spread = self._spread + 2 * travel * self._cross + travel**2 * self._speed_spread + power * seconds**4 / 4
        self._cross = fade * (self._cross + travel * self._speed_spread) + power * seconds**3 / 2
        self._speed_spread = fade**2 * self._speed_spread + power * seconds**2

    def correct(self, box: Box) -> None:
        """Take a measured box in."""
        error = _centred(box) - self._place
        total = self._spread + (POSITION_NOISE * self._size) ** 2
        gain, speed_gain = self._spread / total, self._cross / total
        self._place = self._place + gain * error
        self._speed = self._speed + speed_gain * error
        self._speed_spread = self._speed_spread - speed_gain * self._cross
        self._cross = self._cross * (1.0 - gain)
        self._spread = self._spread * (1.0 - gain)


def _centred(box: Box) -> Box:
    x1, y1, x2, y2 = (float(value) for value in box)
    return np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
