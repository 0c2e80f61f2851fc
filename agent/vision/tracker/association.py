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
    first, second = _widened(first, margin), _widened(second, margin)
    top = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.prod(np.maximum(bottom - top, 0.0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    result: Matrix = common / np.maximum(areas[0][:, None] + areas[1][None, :] - common, 1e-9)
    return result


def best_pairs(similarity: Matrix, least: float) -> list[tuple[int, int]]:
    """Pairs (row, column), most similar first, each row and column at most once, none below `least`."""
    rows, columns = np.nonzero(similarity >= least)
    order = np.argsort(-similarity[rows, columns], kind="stable")
    pairs: list[tuple[int, int]] = []
    taken_rows: set[int] = set()
    taken_columns: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken_rows and column not in taken_columns:
            taken_rows.add(row)
            taken_columns.add(column)
            pairs.append((row, column))
    return pairs


def _widened(boxes: Boxes, margin: float) -> Matrix:
    exact: Matrix = boxes.astype(np.float64)
    if not margin:
        return exact
    extra = margin * (exact[:, 2:] - exact[:, :2])
    return np.hstack([exact[:, :2] - extra, exact[:, 2:] + extra])
