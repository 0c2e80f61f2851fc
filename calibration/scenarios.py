"""The edge scenarios of MLPerf Inference, as loops of our own.

MLPerf Inference Rules (mlcommons/inference_policies, inference_rules.adoc), section 3 "Scenarios": SingleStream sends the next query when
the last one is complete, one sample each, and counts the 90th percentile; MultiStream sends 8 samples a query and counts the 99th;
Offline has all samples at once and counts the throughput. The rules ask for 600 seconds each; `seconds` here is what the caller has time
for, so that figures are in MLPerf's terms but no MLPerf results.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from engines.backends.base import IMAGE
from engines.base import Engine

MULTI_STREAM_SAMPLES = 8
LEAST_CALLS = 3
BLOCK_S = 0.02
WARM_S = 1.0


@dataclass(frozen=True, slots=True)
class Runner:
    """What answers queries: `call` infers `batch` pictures; it is best called by `parallel` callers at once."""

    call: Callable[[], Any]
    batch: int
    parallel: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of queries."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    queries: int

    @staticmethod
    def of(seconds: list[float]) -> Latency:
        """Of the seconds that each query took."""
        p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(seconds, (50, 90, 99)))
        return Latency(p50, p90, p99, len(seconds))


@dataclass(frozen=True, slots=True)
class Throughput:
    """Pictures that were inferred, and the seconds that it took."""

    samples: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Pictures a second."""
        return self.samples / self.seconds


def runner(engine: Engine) -> Runner:
    """Almena's own call of an engine, on a picture of noise."""
    shape = tuple(size or 1 for size in engine.inputs[0].shape)
    tensors = {IMAGE: noise(shape)}
    return Runner(lambda: engine.infer(tensors), shape[0], engine.parallel)


def noise(shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes that everything is measured on."""
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def warm(what: Runner, calls: int = LEAST_CALLS) -> None:
    """Let caches, threads and clocks settle: so many calls, or a second of them."""
    end = perf_counter() + WARM_S
    for _ in range(calls):
        what.call()
        if perf_counter() >= end:
            return


def single_stream(what: Runner, seconds: float, least: int = LEAST_CALLS) -> Latency:
    """One query after another, of one call each (one sample, if the batch is 1)."""
    times: list[float] = []
    end = perf_counter() + seconds
    while len(times) < least or perf_counter() < end:
        started = perf_counter()
        what.call()
        times.append(perf_counter() - started)
    return Latency.of(times)


def side_by_side(one: Runner, other: Runner, seconds: float) -> tuple[Latency, Latency]:
    """Single calls of both in short blocks that alternate, so that what else the machine does meets both alike; `seconds` for each."""
    times: tuple[list[float], list[float]] = ([], [])
    end = perf_counter() + 2 * seconds
    while len(times[1]) < LEAST_CALLS or perf_counter() < end:
        for what, taken in zip((one, other), times, strict=True):
            block_end = perf_counter() + BLOCK_S
            while True:
                started = perf_counter()
                what.call()
                taken.append(perf_counter() - started)
                if perf_counter() >= block_end:
                    break
    return Latency.of(times[0]), Latency.of(times[1])


def multi_stream(what: Runner, seconds: float, least: int = LEAST_CALLS) -> Latency:
    """Queries of 8 samples, in as few calls as the batch allows; calls of a query run at once where the engine can."""
    calls = -(-MULTI_STREAM_SAMPLES // what.batch)
    times: list[float] = []
    with ThreadPoolExecutor(min(what.parallel, calls)) as callers:
        end = perf_counter() + seconds
        while len(times) < least or perf_counter() < end:
            started = perf_counter()
            list(callers.map(lambda _: what.call(), range(calls)))
            times.append(perf_counter() - started)
    return Latency.of(times)


def offline(what: Runner, seconds: float, least: int = LEAST_CALLS) -> Throughput:
    """All that can be inferred in that time by as many callers as the engine wants."""
    counts = [0] * what.parallel
    started = perf_counter()

    def work(number: int) -> None:
        while counts[number] < least or perf_counter() < started + seconds:
            what.call()
            counts[number] += 1

    with ThreadPoolExecutor(what.parallel) as callers:
        list(callers.map(work, range(what.parallel)))
    return Throughput(sum(counts) * what.batch, perf_counter() - started)
