"""Sets of sequence numbers as intervals."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
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

    def __len__(self) -> int:
        return len(self._lows)

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

    def remove(self, low: int, high: int | None = None) -> None:
        """Take out what is in of `low` to `high`, both ends included."""
        high = low if high is None else high
        first = bisect_left(self._highs, low)
        last = bisect_right(self._lows, high)
        if first < last:
            ends = ((self._lows[first], low - 1), (high + 1, self._highs[last - 1]))
            parts = [part for part in ends if part[0] <= part[1]]
            self._lows[first:last] = [part[0] for part in parts]
            self._highs[first:last] = [part[1] for part in parts]

    def gaps(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """The ranges from `low` to `high`, both ends included, that are not in."""
        for place in range(bisect_left(self._highs, low), len(self._lows)):
            if self._lows[place] > high:
                break
            if low < self._lows[place]:
                yield low, self._lows[place] - 1
            low = self._highs[place] + 1
        if low <= high:
            yield low, high

    def beside(self, number: int) -> bool:
        """Whether it would make no range of its own."""
        return number - 1 in self or number + 1 in self

    def keep_highest(self, most: int) -> None:
        """Forget the lowest ranges where there are more than `most`."""
        del self._lows[:-most], self._highs[:-most]

    @property
    def missing(self) -> int:
        """How many numbers between the lowest and the highest are not in."""
        return self._highs[-1] - self._lows[0] + 1 - self.count if self._lows else 0

    @property
    def first_gap(self) -> int:
        """The lowest number above the lowest that is not in; 0 if there is no gap."""
        return self._highs[0] + 1 if len(self._lows) > 1 else 0

    @property
    def upto(self) -> int:
        """The highest number such that it and all from 1 on are here; 0 if 1 is missing."""
        return self._highs[0] if self._lows and self._lows[0] <= 1 else 0

    @property
    def lowest(self) -> int:
        """The lowest number; 0 if there is none."""
        return self._lows[0] if self._lows else 0

    @property
    def highest(self) -> int:
        """The highest number; 0 if there is none."""
        return self._highs[-1] if self._highs else 0

    @property
    def count(self) -> int:
        """How many numbers are in."""
        return sum(self._highs) - sum(self._lows) + len(self._lows)
