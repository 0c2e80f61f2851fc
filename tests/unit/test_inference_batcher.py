"""Coalescing, limits and ends of the queue in front of an engine, with an engine whose pace the test sets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from agent.vision.inference.batcher import Batcher, Sized, worth
from agent.vision.inference.signature import InferenceError, Outputs
from engines.backends.base import IMAGE
from engines.base import Engine, EngineError, T, Tensor, TensorSpec
from tests.waiting import wait_until

pytestmark = pytest.mark.unit
LONG_S = 30.0


class PacedEngine(Engine):
    """Gives the mean of each picture. A call waits until the test lets it go on; `calls` holds what each was given."""

    backend = precision = "test"

    def __init__(self, batch: int, parallel: int = 1, rows: int | None = None) -> None:
        self.name = "paced"
        self.parallel = parallel
        self.inputs = (TensorSpec(IMAGE, "uint8", (batch, 2, 2, 1)),)
        self.outputs = (TensorSpec("mean", "float32", (batch, 1)),)
        self.calls: list[list[int]] = []
        self.open = threading.Semaphore(0)
        self.broken: Exception | None = None
        self.nan_of: int | None = None
        self._rows = rows or batch

    def _read(self, tensors: Mapping[str, Tensor], reader: Callable[[Mapping[str, Tensor]], T]) -> T:
        self.calls.append([int(value) for value in tensors[IMAGE][:, 0, 0, 0]])
        assert self.open.acquire(timeout=LONG_S)
        if self.broken:
            raise self.broken
        found = tensors[IMAGE].mean((1, 2), dtype=np.float32)
        return reader({"mean": np.where(found == self.nan_of, np.float32(np.nan), found)[: self._rows]})

    def go(self, calls: int = 1) -> None:
        for _ in range(calls):
            self.open.release()


def pictures(*values: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.array(values, np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)


def means(answer: Future[Outputs]) -> list[int]:
    return [int(value) for value in answer.result(LONG_S)["mean"][:, 0]]


class Bench:
    """A batcher over an engine for one picture and one for `many`."""

    def __init__(self, batcher: Batcher, one: PacedEngine, many: PacedEngine) -> None:
        self.batcher, self.one, self.many = batcher, one, many

    def submit(self, *values: int, timeout_s: float = LONG_S) -> Future[Outputs]:
        return self.batcher.submit(pictures(*values), timeout_s)

    def busy(self) -> Future[Outputs]:
        """A request that occupies the engine; `one` lets it go on."""
        before = len(self.one.calls)
        answer = self.submit(99)
        wait_until(lambda: len(self.one.calls) > before, 10, "the first call")
        return answer

    @property
    def results(self) -> dict[str, int]:
        found: dict[str, int] = self.batcher.metrics()["results"]
        return found


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    with ExitStack() as stack:

        def made(many: int = 4, queue: int = 8, delay_s: float = 0.0, parallel: int = 1, faster: float = 10.0) -> Bench:
            engines = PacedEngine(1, parallel), PacedEngine(many, parallel)
            sized = (Sized(engines[0], 1, 100.0), Sized(engines[1], many, 100.0 * faster))
            bench = Bench(Batcher("paced", sized, queue, delay_s), *engines)
            stack.callback(bench.batcher.close)
            for engine in engines:
                stack.callback(engine.go, 1000)
            return bench

        yield made


def test_what_waits_goes_together(make: Callable[..., Bench]) -> None:
    bench = make()
    first = bench.busy()
    answers = [bench.submit(value) for value in (1, 2, 3)]
    assert bench.batcher.metrics()["queued"] == 3
    bench.one.go()
    bench.many.go()
    assert [means(answer) for answer in (first, *answers)] == [[99], [1], [2], [3]]
    assert bench.many.calls[0][:3] == [1, 2, 3]
    assert bench.batcher.metrics()["calls"] == {1: 1, 3: 1}
    assert bench.batcher.metrics()["queued"] == 0


def test_a_full_batch_is_given_to_the_engine_as_it_came(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.many.go()
    assert means(bench.submit(5, 6, 7, 8)) == [5, 6, 7, 8]
    assert bench.one.calls == []


def test_few_pictures_are_not_worth_a_large_call(make: Callable[..., Bench]) -> None:
    bench = make(faster=1.0)
    first = bench.busy()
    answers = [bench.submit(value) for value in (1, 2, 3)]
    bench.one.go(4)
    assert [means(answer) for answer in (first, *answers)] == [[99], [1], [2], [3]]
    assert bench.many.calls == []


@pytest.mark.parametrize(("faster", "least"), [(10.0, 2), (2.0, 4), (1.3, 7), (1.0, 8), (0.5, 8)])
def test_from_how_many_on_a_large_call_pays(faster: float, least: int) -> None:
    one = Sized(PacedEngine(1), 1, 100.0)
    assert worth(one, Sized(PacedEngine(8), 8, 100.0 * faster)) == least
    assert worth(one, one) == 1


def test_a_long_request_is_cut_and_short_ones_pass_it(make: Callable[..., Bench]) -> None:
    bench = make(queue=16)
    first = bench.busy()
    long, short = bench.submit(*range(1, 11)), bench.submit(50)
    bench.one.go()
    bench.many.go()
    bench.many.go()
    assert means(short) == [50]
    assert not long.done()
    bench.many.go(5)
    bench.one.go(5)
    assert means(long) == list(range(1, 11))
    assert means(first) == [99]


def test_a_full_queue_is_told_at_once(make: Callable[..., Bench]) -> None:
    bench = make(queue=4)
    bench.busy()
    bench.submit(1, 2, 3)
    with pytest.raises(InferenceError, match="queue of model 'paced' is full") as caught:
        bench.submit(4, 5)
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    assert bench.results["queue_full"] == 1
    bench.submit(4)


def test_pictures_wait_for_others_only_while_the_engine_is_busy(make: Callable[..., Bench]) -> None:
    bench = make(delay_s=LONG_S, parallel=2)
    first = bench.busy()
    answers = [bench.submit(value) for value in (1, 2, 3)]
    assert bench.many.calls == []
    answers.append(bench.submit(4))
    bench.many.go()
    assert [means(answer) for answer in answers] == [[1], [2], [3], [4]]
    assert bench.many.calls == [[1, 2, 3, 4]]
    last = bench.submit(5)
    bench.one.go(2)
    assert [means(first), means(last)] == [[99], [5]]


def test_several_calls_at_once(make: Callable[..., Bench]) -> None:
    bench = make(parallel=2)
    answers = [bench.busy(), bench.busy()]
    bench.one.go(2)
    assert [means(answer) for answer in answers] == [[99], [99]]


def test_who_leaves_is_dropped_from_the_queue(make: Callable[..., Bench]) -> None:
    bench = make(queue=2)
    first = bench.busy()
    left = bench.submit(1, 2)
    assert left.cancel()
    assert bench.batcher.metrics()["queued"] == 0
    answer = bench.submit(3)
    bench.one.go(2)
    assert [means(first), means(answer)] == [[99], [3]]
    assert bench.one.calls == [[99], [3]]
    assert bench.results == {"cancelled": 1, "ok": 2}


def test_who_leaves_in_the_middle_of_a_call_harms_nobody(make: Callable[..., Bench]) -> None:
    bench = make()
    assert bench.busy().cancel()
    answer = bench.submit(1)
    bench.one.go(2)
    assert means(answer) == [1]


def test_a_deadline_that_passes_in_the_queue(make: Callable[..., Bench]) -> None:
    bench = make()
    first = bench.busy()
    late, timely = bench.submit(1, timeout_s=-1.0), bench.submit(2)
    bench.one.go(2)
    with pytest.raises(InferenceError, match="in time") as caught:
        late.result(LONG_S)
    assert caught.value.status == 503
    assert [means(first), means(timely)] == [[99], [2]]
    assert bench.one.calls == [[99], [2]]
    assert bench.results["timeout"] == 1


def test_a_failing_call_is_told_to_its_requests_alone(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.one.broken = EngineError("output 'mean' holds NaN")
    first = bench.busy()
    others = [bench.submit(1), bench.submit(2)]
    bench.one.go()
    bench.many.go()
    with pytest.raises(InferenceError, match="holds NaN") as caught:
        first.result(LONG_S)
    assert caught.value.status == 500
    assert [means(answer) for answer in others] == [[1], [2]]
    assert bench.results == {"failed": 1, "ok": 2}


def test_a_picture_whose_numbers_are_not_finite_fails_its_own_request_alone(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.many.nan_of = 7
    first = bench.busy()
    others = [bench.submit(1), bench.submit(7, 2), bench.submit(3)]
    bench.one.go()
    bench.many.go(4)
    with pytest.raises(InferenceError, match="holds NaN"):
        others[1].result(LONG_S)
    assert [means(answer) for answer in (first, others[0], others[2])] == [[99], [1], [3]]
    assert bench.many.calls == [[1, 7, 2, 3], [1, 1, 1, 1], [7, 2, 7, 7], [3, 3, 3, 3]], "what fills a call up is of the same request"
    assert bench.results == {"failed": 1, "ok": 3}


def test_an_output_without_a_row_for_each_picture_is_an_error() -> None:
    engine = PacedEngine(4, rows=3)
    engine.go()
    batcher = Batcher("odd", (Sized(engine, 4, 100.0),), 8, 0.0)
    answer = batcher.submit(pictures(1), LONG_S)
    with pytest.raises(InferenceError, match="'mean' has 3 rows for 4 pictures"):
        answer.result(LONG_S)
    batcher.close()


def test_closing_answers_what_is_under_way_and_refuses_the_rest(make: Callable[..., Bench]) -> None:
    bench = make()
    first = bench.busy()
    waiting = bench.submit(1, 2)
    closing = threading.Thread(target=bench.batcher.close)
    closing.start()
    with pytest.raises(InferenceError, match="being closed") as caught:
        waiting.result(LONG_S)
    assert caught.value.status == 503
    assert not first.done()
    bench.one.go()
    assert means(first) == [99]
    closing.join(LONG_S)
    assert not closing.is_alive()
    with pytest.raises(InferenceError, match="being closed"):
        bench.submit(1)


def test_a_flood_is_answered_or_refused_exactly_once(make: Callable[..., Bench]) -> None:
    bench = make(queue=16, parallel=2, delay_s=0.001)
    bench.one.go(10_000)
    bench.many.go(10_000)
    right: list[int] = []
    refused: list[int] = []

    def caller(number: int) -> None:
        random = np.random.default_rng(number)
        for _ in range(100):
            values = [int(value) for value in random.integers(0, 256, random.integers(1, 7))]
            try:
                answer = bench.submit(*values)
            except InferenceError as error:
                refused.append(error.status)
                continue
            right.append(means(answer) == values)

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(12)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(LONG_S)
    assert all(right)
    assert set(refused) <= {429}
    assert len(right) + len(refused) == 1200
    assert bench.results == {"ok": len(right)} | ({"queue_full": len(refused)} if refused else {})
    assert max(bench.batcher.metrics()["calls"]) > 1
