"""How long the stages of the pipeline take."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

WINDOW = 2048


def latencies(name: str, taken: Iterable[float]) -> dict[str, float]:
    """`<name>_p50_seconds`, `_p95_`, `_p99_` of durations in seconds; nothing of none."""
    times = list(taken)
    return {f"{name}_p{q}_seconds": float(np.percentile(times, q)) for q in (50, 95, 99)} if times else {}


class StageTimes:
    """Durations of named stages in seconds: the last 2,048 of each. Any thread may add."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._times: dict[str, deque[float]] = {stage: deque(maxlen=WINDOW) for stage in stages}
        self._lock = threading.Lock()

    def add(self, stage: str, seconds: float) -> None:
        """Count one duration."""
        with self._lock:
            self._times[stage].append(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def percentiles(self) -> dict[str, float]:
        """`<stage>_p50_seconds`, `_p90_`, `_p99_` of every stage that ran."""
        with self._lock:
            times = {stage: np.array(values) for stage, values in self._times.items() if values}
        return {
            f"{stage}_p{q}_seconds": float(value)
            for stage, values in times.items()
            for q, value in zip((50, 90, 99), np.percentile(values, (50, 90, 99)), strict=True)
        }
