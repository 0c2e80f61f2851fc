"""Which box belongs to which. Plain floats: for the few boxes of a frame, arrays cost more than they save."""

from __future__ import annotations

from collections.abc import Sequence

Box = Sequence[float]
"""x1, y1, x2, y2 in pixels."""
Matrix = list[list[float]]


def overlaps(first: Sequence[Box], second: Sequence[Box], margin: float = 0.0) -> Matrix:
    """Intersection over union of N and M boxes: N rows of M.

    Every box is first widened by `margin` of its size on each side (the buffered IoU of Yang et al. 2023, C-BIoU), so that a small
    face that moved further than its own width between two frames still overlaps.
    """
    columns = [_widened(box, margin) for box in second]
    return [[_overlap(row, column) for column in columns] for row in (_widened(box, margin) for box in first)]


def best_pairs(similarity: Matrix, least: float) -> list[tuple[int, int]]:
    """Pairs (row, column), most similar first, each row and column at most once, none below `least`."""
    near = [(value, row, column) for row, values in enumerate(similarity) for column, value in enumerate(values) if value >= least]
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


def _overlap(first: Box, second: Box) -> float:
    left, top, right, bottom = first
    x1, y1, x2, y2 = second
    width, height = min(right, x2) - max(left, x1), min(bottom, y2) - max(top, y1)
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - common)


def _widened(box: Box, margin: float) -> Box:
    x1, y1, x2, y2 = box
    extra_x, extra_y = margin * (x2 - x1), margin * (y2 - y1)
    return x1 - extra_x, y1 - extra_y, x2 + extra_x, y2 + extra_y
