"""Sets of sequence numbers as intervals."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator


class Intervals:
    """A set of positive integers that stays small where they are contiguous."""

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []
        for low, high in pairs:
            self.add(low, high)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._lows, self._highs, strict=True))

    def __contains__(self, number: int) -> bool:
        place = bisect_left(self._highs, number)
        return place < len(self._lows) and self._lows[place] <= number

    def add(self, low: int, high: int | None = None) -> None:
        """Take in `low` to `high`, both ends included. Raises ValueError unless 1 <= low <= high < 2**63."""
        high = low if high is None else high
        if not 1 <= low <= high < 1 << 63:
            raise ValueError(f"{low} to {high} is no range of numbers")
        first = bisect_left(self._highs, low - 1)
        last = first
        while last < len(self._lows) and self._lows[last] <= high + 1:
            low, high = min(low, self._lows[last]), max(high, self._highs[last])
            last += 1
        self._lows[first:last] = [low]
        self._highs[first:last] = [high]

    @property
    def upto(self) -> int:
        """The highest number such that it and all from 1 on are here; 0 if 1 is missing."""
        return self._highs[0] if self._lows and self._lows[0] <= 1 else 0
