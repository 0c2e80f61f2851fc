"""How unusual numbers are: their distance from the plane in which those of usual pictures lie, and within it from their middle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Plane:
    """mean: (D,); axes: (K, D), orthonormal; spread: (K,) variances along them; rest: the mean square distance from their plane;
    limit: the distance from which a picture is refused.

    A normal distribution whose covariance is of low rank but for an even rest (M. Tipping, C. Bishop, "Probabilistic principal component
    analysis", J. R. Statist. Soc. B 61(3), 1999).
    """

    mean: F32
    axes: F32
    spread: F32
    rest: float
    limit: float

    def distances(self, rows: F32) -> F32:
        """Of rows (N, D), square and in units of what is usual: about 2 for those like what it was fitted to."""
        centred = rows - self.mean
        within = centred @ self.axes.T
        outside = np.square(centred).sum(1) - np.square(within).sum(1)
        return np.asarray(np.square(within / np.sqrt(self.spread)).mean(1) + outside / self.rest, np.float32)
