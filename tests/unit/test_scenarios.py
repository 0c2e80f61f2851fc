"""The loops of the scenarios: how many calls, by how many callers, and what is counted."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from calibration import scenarios
from calibration.scenarios import Latency, Runner, multi_stream, offline, runner, side_by_side, single_stream, warm
from engines.backends.base import Build
from engines.errors import EngineError
from tests.fakes.paced import CLOCK, FEED, PacedEngine

pytestmark = pytest.mark.unit


class Calls:
    """Each takes the next of some milliseconds; how many were at once is kept."""

    def __init__(self, *milliseconds: float) -> None:
        self.milliseconds = milliseconds
        self.count = self.now = self.most = 0
        self.together: threading.Barrier | None = None
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            CLOCK.now += self.milliseconds[self.count % len(self.milliseconds)] / 1e3
            self.count += 1
        if self.together is not None:
            self.together.wait(20)
        with self._lock:
            self.now -= 1


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarios, "perf_counter", CLOCK)


def test_single_stream_counts_each_query_for_itself() -> None:
    calls = Calls(*[1.0] * 9, 50.0)
    found = single_stream(Runner(calls, 1, 4), 1.0)
    assert (calls.most, found.queries) == (1, calls.count)
    assert found.p50_ms == pytest.approx(1, rel=0.01)
    assert found.p99_ms == pytest.approx(50, rel=0.01)


def test_even_slow_calls_are_made_a_few_times() -> None:
    assert single_stream(Runner(Calls(5000.0), 1, 1), 0.1).queries == 3


@pytest.mark.parametrize(("milliseconds", "made"), [(10.0, 3), (600.0, 2), (5000.0, 1)])
def test_slow_calls_settle_sooner(milliseconds: float, made: int) -> None:
    calls = Calls(milliseconds)
    warm(Runner(calls, 1, 1))
    assert calls.count == made


@pytest.mark.parametrize(("batch", "calls_a_query"), [(1, 8), (3, 3), (8, 1), (16, 1)])
def test_multi_stream_asks_for_eight_samples(batch: int, calls_a_query: int) -> None:
    calls = Calls(1.0)
    found = multi_stream(Runner(calls, batch, 1), 0.0, least=5)
    assert (found.queries, calls.count) == (5, 5 * calls_a_query)
    assert found.p99_ms == pytest.approx(calls_a_query, rel=0.01)


def test_multi_stream_and_offline_use_as_many_callers_as_the_engine_wants() -> None:
    calls = Calls(1.0)
    calls.together = threading.Barrier(4)
    multi_stream(Runner(calls, 1, 4), 0.0)
    assert calls.most == 4
    calls = Calls(1.0)
    calls.together = threading.Barrier(3)
    found = offline(Runner(calls, 2, 3), 0.0)
    assert (calls.most, found.samples) == (3, 2 * calls.count)


def test_offline_counts_pictures() -> None:
    assert offline(Runner(Calls(10.0), 4, 1), 1.0).per_second == pytest.approx(400, rel=0.01)


@pytest.mark.parametrize("scenario", [single_stream, multi_stream, offline])
def test_a_call_that_fails_ends_the_measurement(scenario: object) -> None:
    def call() -> None:
        raise EngineError("out of order")

    assert callable(scenario)
    with pytest.raises(EngineError, match="out of order"):
        scenario(Runner(call, 1, 2), 0.1)


def test_two_that_are_compared_alternate_in_blocks() -> None:
    order: list[str] = []

    def call(name: str, milliseconds: float) -> None:
        CLOCK.now += milliseconds / 1e3
        order.append(name)

    one, other = side_by_side(Runner(lambda: call("a", 5), 1, 1), Runner(lambda: call("b", 10), 1, 1), 0.1)
    assert (one.p50_ms, other.p50_ms) == pytest.approx((5, 10), rel=0.01)
    assert "".join(order).startswith("aaaabbaaaabb")


def test_percentiles() -> None:
    found = Latency.of([n / 1000 for n in range(1, 101)])
    assert (found.p50_ms, found.p90_ms, found.p99_ms) == pytest.approx((50.5, 90.1, 99.01))


def test_a_runner_calls_the_engine_with_its_batch(tmp_path: Path) -> None:
    engine = PacedEngine(Build("small", tmp_path, FEED, 2, 16, 16, "fp32", "latency"), "quick", lambda: 0.002, 0.0, 1)
    what = runner(engine)
    before = CLOCK.now
    assert what.call()["scores"].shape == (2, 2)
    assert CLOCK.now - before == pytest.approx(0.002)
    assert (what.batch, what.parallel) == (2, 1)
