"""Where an opaque model saw what it answers: how much the answer's score falls while a grey square covers a part of the picture
(M. Zeiler, R. Fergus, "Visualizing and understanding convolutional networks", ECCV 2014)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from engines.model import Classifier

GRIDS = (12, 8, 6, 4)
"""Cells across and down; a square covers two by two of them and moves by one."""
GROUP = 8
"""Pictures between two looks at the clock."""
SURE = 1e-6

Pixels = NDArray[np.uint8]


def occlusion(classifier: Classifier, fitted: Pixels, place: int, within_s: float, one_s: float) -> NDArray[np.float32] | None:
    """(g, g): by how much, in log-odds of class `place`, a square over a cell lowers the score, averaged over the squares that cover it.

    `fitted` is what `Classifier.fit` made. Of GRIDS the finest is taken that `within_s` is enough for, where a picture takes `one_s`; None
    where that holds for none, or where it takes longer all the same. Raises EngineError.
    """
    until = time.monotonic() + within_s
    grid = next((cells for cells in GRIDS if ((cells - 1) ** 2 + 1) * one_s <= within_s), None)
    if grid is None:
        return None
    pictures = chain([fitted], _covered(fitted, grid))
    odds: list[float] = []
    while group := list(islice(pictures, GROUP)):
        if time.monotonic() > until:
            return None
        scores = classifier.read(group).probabilities[:, place].astype(np.float64).clip(SURE, 1 - SURE)
        odds += np.log(scores / (1 - scores)).tolist()
    falls = (odds[0] - np.array(odds[1:])).reshape(grid - 1, grid - 1)
    total, count = np.zeros((grid, grid)), np.zeros((grid, grid))
    for down in (0, 1):
        for across in (0, 1):
            total[down : down + grid - 1, across : across + grid - 1] += falls
            count[down : down + grid - 1, across : across + grid - 1] += 1
    return np.asarray(total / count, np.float32)


def _covered(fitted: Pixels, grid: int) -> Iterator[Pixels]:
    """Row by row, with a square of the picture's mean grey at each place."""
    height, width = fitted.shape[:2]
    rows, columns = np.linspace(0, height, grid + 1).astype(int), np.linspace(0, width, grid + 1).astype(int)
    grey = np.rint(fitted.mean(axis=(0, 1))).astype(np.uint8)
    for row in range(grid - 1):
        for column in range(grid - 1):
            picture = fitted.copy()
            picture[rows[row] : rows[row + 2], columns[column] : columns[column + 2]] = grey
            yield picture
