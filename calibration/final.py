"""The last comparison of a tuning: the best few candidates take turns until they differ by more than noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Protocol, TypeVar

LEAST, SURE = 3, 6
"""Rounds without which nothing is said, and without which nobody leaves."""
ALIKE = 0.02
"""Candidates this close to the best count as equally good."""


class Contender(Protocol):
    """`costs`: of its turns, one for each round from the first on; lower is better."""

    costs: list[float]


C = TypeVar("C", bound=Contender)


def final(contenders: Sequence[C], turn: Callable[[C], None], over: Callable[[], bool]) -> C:
    """The best. `turn` measures one and adds a cost; `over`: whether the time is up.

    Rounds go back and forth. Who was slower than the best in three of four rounds, by more than counts as equally good, leaves. It ends
    where nobody else is left, or only such as are equally good in three of four rounds.
    """
    left, rounds = list(contenders), 0
    while True:
        for contender in left if rounds % 2 == 0 else reversed(left):
            turn(contender)
        rounds += 1
        best = min(left, key=lambda one: median(one.costs))
        if rounds >= LEAST and over():
            return best
        if rounds >= SURE:
            left = [one for one in left if _ratios(one, best)[rounds // 4] <= 1 + ALIKE]
            if all(_ratios(one, best)[-1 - rounds // 4] <= 1 + ALIKE for one in left):
                return best


def relative(one: Contender, other: Contender) -> float:
    """The first one's cost as a multiple of the other's: the median over the rounds that both were in."""
    return median(_ratios(one, other))


def _ratios(one: Contender, other: Contender) -> list[float]:
    return sorted(cost / against for cost, against in zip(one.costs, other.costs, strict=False))
