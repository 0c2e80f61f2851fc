"""Two engines in turns, so that both see the same machine."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from engines.base import Engine
from engines.store import per_second

ROUNDS, ROUND_S = 5, 0.3


@dataclass(frozen=True, slots=True)
class Turns:
    """Pictures a second of the first and the second engine, each with as many calls at once as it serves: medians over the rounds.

    `ratio`: the median of the rounds' own ratios.
    """

    first: float
    second: float
    ratio: float


def in_turns(first: Engine, second: Engine, rounds: int = ROUNDS, seconds: float = ROUND_S) -> Turns:
    """Let them take turns on the same noise, after a round that does not count."""
    for engine in (first, second):
        per_second(engine, seconds)
    pairs = [(per_second(first, seconds), per_second(second, seconds)) for _ in range(rounds)]
    ratio = median(other / one for one, other in pairs)
    return Turns(median(one for one, _ in pairs), median(other for _, other in pairs), ratio)
