"""Sets of whole numbers as sorted pairs (first, last), both ends included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Ranges = list[tuple[int, int]]


def merged(ranges: Iterable[Sequence[int]]) -> Ranges:
    """Sorted, with touching and overlapping ones joined."""
    found: Ranges = []
    for first, last in sorted((first, last) for first, last in ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return found


def size(ranges: Iterable[tuple[int, int]]) -> int:
    """How many numbers they hold."""
    return sum(last - first + 1 for first, last in ranges)


def of(numbers: Iterable[int]) -> Ranges:
    """The ranges that hold exactly `numbers`."""
    return merged((number, number) for number in numbers)


def without(first: int, last: int, numbers: Iterable[int]) -> Ranges:
    """What is left of first..last without `numbers`."""
    left: Ranges = []
    for number in sorted(numbers):
        if first <= number <= last:
            if first < number:
                left.append((first, number - 1))
            first = number + 1
    if first <= last:
        left.append((first, last))
    return left


def within(ranges: Iterable[tuple[int, int]], first: int, last: int) -> Ranges:
    """What of them lies in first..last."""
    return [(max(start, first), min(end, last)) for start, end in ranges if start <= last and end >= first]
