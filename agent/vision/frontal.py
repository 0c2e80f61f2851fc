"""Whether a grey picture looks like a frontal chest radiograph: by its distance from those that the model was trained on.

The picture, 24x24 and of one mean and deviation, is compared with the principal components of the training pictures: how far it lies from
their plane, and within it from their middle, each in units of what is usual there (M. Turk, A. Pentland, "Eigenfaces for recognition",
Journal of Cognitive Neuroscience 3(1), 1991; B. Moghaddam, A. Pentland, PAMI 19(7), 1997). `training.frontal` makes the file beside this.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from engines.plane import F32 as F32
from engines.plane import Plane
from engines.preprocess import stretched

SIDE = 24
SAMPLES = 8
"""Of a picture's pixels at least so many across and down become one."""
FLAT = 6.0
"""Grey levels: a picture whose deviation is smaller shows nothing."""
LONGEST = 2.0
"""A radiograph of a chest is not more than so many times as long as wide, nor as wide as long."""


class Frontal(Plane):
    """Of `features`; D is SIDE squared."""

    def objection(self, image: NDArray[np.uint8]) -> str:
        """Why a picture (H, W) is taken for no frontal chest radiograph; "" if it may be one."""
        rows, columns = image.shape
        if max(rows, columns) > LONGEST * min(rows, columns):
            return "it is far longer on one side than on the other"
        small = _small(image)
        if small.std() < FLAT:
            return "it is all of one shade"
        distance = float(self.distances(_levelled(small)[None])[0])
        return f"it is unlike the training images (distance {distance:.1f}, at most {self.limit:.1f})" if distance > self.limit else ""


def features(image: NDArray[np.uint8]) -> F32:
    """(D,) of a picture (H, W)."""
    return _levelled(_small(image))


def _small(image: NDArray[np.uint8]) -> F32:
    """(D,) grey levels. Of a large picture every few pixels are enough."""
    step = max(1, min(image.shape) // (SAMPLES * SIDE))
    return stretched(np.ascontiguousarray(image[::step, ::step]), SIDE, SIDE).astype(np.float32).ravel()


def _levelled(small: F32) -> F32:
    return np.asarray((small - small.mean()) / (small.std() + 4.0), np.float32)


@cache
def frontal() -> Frontal:
    """As it was fitted."""
    with (resources.files("agent.vision") / "frontal.npz").open("rb") as file, np.load(file) as kept:
        parts = {name: kept[name].astype(np.float32) for name in ("mean", "axes", "spread")}
        return Frontal(**parts, rest=float(kept["rest"]), limit=float(kept["limit"]))
