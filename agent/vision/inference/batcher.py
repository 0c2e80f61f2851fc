"""Requests from many callers, coalesced into few calls of an engine."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.timing import StageTimes
from agent.vision.inference.signature import U8, InferenceError, Outputs
from engines.backends.base import IMAGE
from engines.base import Engine, EngineError, Tensor
from engines.errors import NotFiniteError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sized:
    """An engine for `batch` pictures in a call, and how many a second it does (by its passport)."""

    engine: Engine
    batch: int
    per_second: float


@dataclass(eq=False, slots=True)
class _Request:
    image: U8
    deadline: float
    answer: Future[Outputs] = field(default_factory=Future)
    came: float = field(default_factory=time.monotonic)
    taken: int = 0
    parts: dict[int, dict[str, NDArray[Any]]] = field(default_factory=dict)
    answered: int = 0

    @property
    def left(self) -> int:
        return len(self.image) - self.taken


@dataclass(frozen=True, slots=True)
class _Slice:
    request: _Request
    start: int
    stop: int


class Batcher:
    """A bounded queue of pictures in front of a model's engines. Thread-safe.

    As many calls are under way as the engines serve at once. A call takes what is queued, up to the largest batch; while other calls are
    under way it waits up to `max_delay_s` for its batch to fill. Requests are served in turn, a long one slice by slice, so that short
    ones pass it. Fewer pictures than are worth a call of the large batch go one by one. `engines` stay the caller's.
    """

    def __init__(self, name: str, engines: Sequence[Sized], queue: int, max_delay_s: float) -> None:
        self._name = name
        self._one, self._many = min(engines, key=lambda sized: sized.batch), max(engines, key=lambda sized: sized.batch)
        self._worth = worth(self._one, self._many)
        self._room = queue
        self._max_delay_s = max_delay_s
        self._queue: deque[_Request] = deque()
        self._queued = 0
        self._under_way = 0
        self._closing = False
        self._changed = threading.Condition()
        self._results: Counter[str] = Counter()
        self._calls: Counter[int] = Counter()
        self._times = StageTimes(("wait", "compute", "total"))
        parallel = max(sized.engine.parallel for sized in engines)
        self._threads = [threading.Thread(target=self._work, name=f"infer-{name}-{number}", daemon=True) for number in range(parallel)]
        for thread in self._threads:
            thread.start()

    def submit(self, image: U8, timeout_s: float) -> Future[Outputs]:
        """Queue (n, height, width, channels) pictures; the outputs come with n rows each. Cancelling the future takes them out again.

        Raises InferenceError: 429 with a full queue, 503 while closing. The future has one of 503 when the time is over before a call.
        """
        request = _Request(image, time.monotonic() + timeout_s)
        with self._changed:
            if self._closing:
                raise InferenceError(503, f"model {self._name!r} is being closed", 1)
            if self._queued + len(image) > self._room:
                self._results["queue_full"] += 1
                raise InferenceError(429, f"the queue of model {self._name!r} is full ({self._room} pictures); try again soon", 1)
            self._queue.append(request)
            self._queued += len(image)
            self._changed.notify()
        request.answer.add_done_callback(lambda answer: self._cancelled(request) if answer.cancelled() else None)
        return request.answer

    def count(self, result: str) -> None:
        """One more request that ended thus before it came here."""
        with self._changed:
            self._results[result] += 1

    def metrics(self) -> dict[str, Any]:
        """`results`: requests by how they ended; `calls`: by number of pictures; `queued`: pictures; latencies by stage."""
        with self._changed:
            results, calls, queued = dict(self._results), dict(self._calls), self._queued
        return {"queued": queued, "results": results, "calls": calls, "seconds": self._times.percentiles()}

    def close(self) -> None:
        """Calls under way end and are answered; what is queued gets 503."""
        with self._changed:
            self._closing = True
            waiting = list(self._queue)
            self._queue.clear()
            self._queued = 0
            self._changed.notify_all()
        for request in waiting:
            self._fail(request, InferenceError(503, f"model {self._name!r} is being closed", 1), "closing")
        for thread in self._threads:
            thread.join()

    def _cancelled(self, request: _Request) -> None:
        with self._changed:
            self._results["cancelled"] += 1
            self._remove(request)

    def _remove(self, request: _Request) -> None:
        if request in self._queue:
            self._queue.remove(request)
            self._queued -= request.left

    def _work(self) -> None:
        staging = np.empty(tuple(size or 1 for size in self._many.engine.inputs[0].shape), np.uint8)
        while (taken := self._take()) is not None:
            sized, slices = taken
            started = time.monotonic()
            self._serve(sized, slices, staging)
            self._times.add("compute", time.monotonic() - started)
            with self._changed:
                self._under_way -= 1
                self._changed.notify()

    def _serve(self, sized: Sized, slices: Sequence[_Slice], staging: U8) -> None:
        """One call; where the numbers of one request's pictures are not finite, the others get a call each."""
        try:
            self._call(sized, slices, staging)
        except BaseException as error:  # noqa: BLE001 - a supervisor: whatever a runtime raises is that request's answer
            if isinstance(error, NotFiniteError) and len(slices) > 1:
                for part in slices:
                    self._serve(sized, [part], staging)
                return
            reason = str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
            log.error("%s: a call failed: %s", self._name, reason)
            for part in slices:
                self._fail(part.request, InferenceError(500, f"model {self._name!r} failed: {reason}"), "failed")

    def _take(self) -> tuple[Sized, list[_Slice]] | None:
        """The next call's engine and slices; None at the end."""
        with self._changed:
            while True:
                self._expire()
                if self._queue:
                    patience = self._queue[0].came + self._max_delay_s - time.monotonic()
                    if not self._under_way or self._queued >= self._many.batch or patience <= 0:
                        break
                    self._changed.wait(patience)
                elif self._closing:
                    return None
                else:
                    self._changed.wait()
            sized = self._many if self._queued >= self._worth else self._one
            slices = self._slices(sized.batch)
            self._under_way += 1
            self._calls[sum(part.stop - part.start for part in slices)] += 1
            if self._queue:
                self._changed.notify()
        return sized, slices

    def _slices(self, room: int) -> list[_Slice]:
        slices = []
        while room and self._queue:
            request = self._queue.popleft()
            count = min(room, request.left)
            slices.append(_Slice(request, request.taken, request.taken + count))
            if not request.taken:
                self._times.add("wait", time.monotonic() - request.came)
            request.taken += count
            room -= count
            self._queued -= count
            if request.left:
                self._queue.append(request)
        return slices

    def _expire(self) -> None:
        now = time.monotonic()
        for request in [request for request in self._queue if request.deadline < now]:
            self._remove(request)
            self._fail(request, InferenceError(503, f"model {self._name!r} did not come to this request in time", 1), "timeout")

    def _call(self, sized: Sized, slices: Sequence[_Slice], staging: U8) -> None:
        count = sum(part.stop - part.start for part in slices)
        only = slices[0]
        if len(slices) == 1 and count == sized.batch:
            tensor: Tensor = only.request.image[only.start : only.stop]
        else:
            tensor = staging[: sized.batch]
            at = 0
            for part in slices:
                tensor[at : at + part.stop - part.start] = part.request.image[part.start : part.stop]
                at += part.stop - part.start
            tensor[at:] = tensor[0]  # not what an earlier call has left there, of which the numbers may not be finite
        sized.engine.read({IMAGE: tensor}, lambda outputs: self._hand_out(outputs, sized.batch, slices))

    def _hand_out(self, outputs: Outputs, batch: int, slices: Sequence[_Slice]) -> None:
        """Runs while the outputs are the engine's own memory."""
        for name, tensor in outputs.items():
            if len(tensor) != batch:
                raise EngineError(f"output {name!r} has {len(tensor)} rows for {batch} pictures, so it cannot be served in batches")
        at = 0
        for part in slices:
            stop = at + part.stop - part.start
            rows = {name: tensor[at:stop].copy() for name, tensor in outputs.items()}
            at = stop
            with self._changed:
                part.request.parts[part.start] = rows
                part.request.answered += part.stop - part.start
                whole = part.request.answered == len(part.request.image)
            if whole:
                self._answer(part.request)

    def _answer(self, request: _Request) -> None:
        parts = [request.parts[start] for start in sorted(request.parts)]
        outputs = parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        with self._changed:
            try:
                request.answer.set_result(outputs)
            except InvalidStateError:  # cancelled, or failed by another of its slices
                return
            self._times.add("total", time.monotonic() - request.came)
            self._results["ok"] += 1

    def _fail(self, request: _Request, error: InferenceError, result: str) -> None:
        with self._changed:
            self._remove(request)
            try:
                request.answer.set_exception(error)
            except InvalidStateError:
                return
            self._results[result] += 1


def worth(one: Sized, many: Sized) -> int:
    """From how many pictures on a padded call of `many` takes less time than as many calls of `one`."""
    return max(one.batch + 1, min(many.batch, math.ceil(many.batch * one.per_second / many.per_second))) if many is not one else 1
