"""Two engines in turns, so that both see the same machine."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from statistics import median

import numpy as np

from engines.backends.base import IMAGE
from engines.base import Engine

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


def per_second(engine: Engine, seconds: float) -> float:
    """Pictures a second over about that time."""
    shape = tuple(size or 1 for size in engine.inputs[0].shape)
    tensors = {IMAGE: np.random.default_rng(1).integers(0, 256, shape, np.uint8)}
    counts = [0] * engine.parallel
    started = time.perf_counter()

    def work(number: int) -> None:
        while not counts[number] or time.perf_counter() < started + seconds:
            engine.infer(tensors)
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(engine.parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) * shape[0] / (time.perf_counter() - started)
