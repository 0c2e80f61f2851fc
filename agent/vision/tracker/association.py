"""Which box belongs to which."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.floating]
Matrix = NDArray[np.float64]


def overlaps(first: Boxes, second: Boxes, margin: float = 0.0) -> Matrix:
    """Intersection over union of (N, 4) and (M, 4) boxes as (N, M).

    Every box is first widened by `margin` of its size on each side (the buffered IoU of Yang et al. 2023, C-BIoU), so that a small
    face that moved further than its own width between two frames still overlaps.
    """
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    rows, columns = _widened(first, margin)[:, :, None], _widened(second, margin)[:, None, :]
    common = (np.minimum(rows[2], columns[2]) - np.maximum(rows[0], columns[0])).clip(0.0)
    common *= (np.minimum(rows[3], columns[3]) - np.maximum(rows[1], columns[1])).clip(0.0)
    areas = (rows[2] - rows[0]) * (rows[3] - rows[1]) + (columns[2] - columns[0]) * (columns[3] - columns[1])
    result: Matrix = common / np.maximum(areas - common, 1e-9)
    return result


def best_pairs(similarity: Matrix, least: float) -> list[tuple[int, int]]:
    """Pairs (row, column), most similar first, each row and column at most once, none below `least`."""
    near = [(value, row, column) for row, values in enumerate(similarity.tolist()) for column, value in enumerate(values) if value >= least]
    near.sort(key=lambda entry: -entry[0])
    pairs: list[tuple[int, int]] = []
    taken_rows: set[int] = set()
    taken_columns: set[int] = set()
    for _, row, column in near:
        if row not in taken_rows and column not in taken_columns:
            taken_rows.add(row)
            taken_columns.add(column)
            pairs.append((row, column))
    return pairs


def _widened(boxes: Boxes, margin: float) -> Matrix:
    """(4, N): x1, y1, x2, y2 of all boxes."""
    corners: Matrix = boxes.T.astype(np.float64)
    if margin:
        extra = margin * (corners[2:] - corners[:2])
        corners[:2] -= extra
        corners[2:] += extra
    return corners
