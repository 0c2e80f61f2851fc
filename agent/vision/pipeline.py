"""One stream, from frame to committed event.

RunningSource ──► newest or next frame ──► infer (workers, parallel) ──► update (in frame order) ──► outbox ──► source.done
                                                                                 └──► preview (only while somebody looks)
Events of a live frame are committed at once; items whose predictions are there already share a commit.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from agent.datatypes import Annotation, Event, Frame, StreamHealth
from agent.errors import AlmenaError, NotNowError
from agent.outbox import Outbox, OutboxError
from agent.timing import StageTimes
from agent.vision.base import Source, Task
from agent.vision.running_source import RunningSource
from agent.vision.sightings import Sightings

log = logging.getLogger(__name__)

RETRY_S = 2.0
LONGEST_RETRY_S = 30.0
BLANK = 360, 640
"""Rows and columns of the picture that the tasks must be able to process."""


class Viewer(Protocol):
    """What shows frames to people; see `agent.vision.preview`."""

    def offer(self, frame: Frame, annotations: tuple[Annotation, ...]) -> None:
        """Take a processed frame, or leave it."""

    def forget(self) -> None:
        """Show no longer what was seen in the last frame."""


class _StoppedError(AlmenaError):
    """The stream was stopped while an item waited; it comes again at the next start."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What the tasks made of a frame that is not committed yet."""

    frame: Frame
    events: list[Event]
    annotations: tuple[Annotation, ...]


class Pipeline:
    """Runs one stream. `start` and `stop` are called once each.

    Whatever a task raises is told, also what is no Exception: a library in Rust that panics raises such.
    """

    def __init__(
        self,
        source: Source,
        tasks: tuple[Task, ...],
        outbox: Outbox,
        viewer: Viewer,
        on_progress: Callable[[], None] = lambda: None,
        sightings: Sightings | None = None,
        on_stored: Callable[[Frame, list[Event], list[int]], None] = lambda frame, events, numbers: None,
    ) -> None:
        """`on_stored` hears which numbers the outbox gave to the events of a frame; it must not wait."""
        workers = max((task.parallel for task in tasks), default=1)
        self.stream = source.stream
        self.tasks = tasks
        self.times = StageTimes(("decode", "infer", "update", "publish", "total"))
        self._outbox = outbox
        self._viewer = viewer
        self._on_progress = on_progress
        self._sightings = sightings
        self._on_stored = on_stored
        self._source = RunningSource(source, self._on_state, on_read=self._on_read)
        self._taking = threading.Lock()
        self._in_flight = threading.Semaphore(2 * workers + 2 if source.finite else workers + 1)
        self._ordered: queue.SimpleQueue[tuple[Frame, Future[list[Any]]] | None] = queue.SimpleQueue()
        self._made: list[_Made] = []
        self._stopping = threading.Event()
        self._lost = threading.Event()
        self._failing = self._impaired = ""
        self._failed = self._failed_live = 0
        self._finished = 0
        self._first_at = 0.0
        self._last_at = 0.0
        self._workers = [threading.Thread(target=self._work, name=f"infer-{self.stream}-{number}") for number in range(workers)]
        self._deliverer = threading.Thread(target=self._deliver, name=f"deliver-{self.stream}")

    @property
    def ended(self) -> bool:
        """The source is at its end and everything from it is committed."""
        return not self._deliverer.is_alive() and self._deliverer.ident is not None

    def start(self) -> None:
        """Start the last stage first."""
        for thread in (self._deliverer, *self._workers):
            thread.start()
        self._source.start()

    def interrupt(self) -> None:
        """Begin to stop; waits for nothing."""
        self._stopping.set()
        self._source.interrupt()

    def stop(self, until: float = math.inf) -> None:
        """Stop along the flow: no new frames, then what is under way, then open tracks end with reason `stopped`. A source that does not
        answer is left behind, at `until` (monotonic) at the latest."""
        self.interrupt()
        self._source.stop(until)
        for thread in (*self._workers, self._deliverer):
            thread.join()
        for task in self.tasks:
            task.close()

    def forget(self) -> None:
        """Take the names out of the live picture until the next frame."""
        for task in self.tasks:
            task.annotations = ()
        self._viewer.forget()

    def health(self) -> StreamHealth:
        """How the stream is doing: a source that runs is not enough where the tasks fail."""
        health = self._source.health()
        health = replace(health, failed=health.failed + self._failed_live)
        if self._failing and health.state in ("running", "finished") and not self.ended:
            return replace(health, state="failed", code="TASK_FAILED", detail=self._failing, quality="unusable")
        if self._impaired and not health.code:
            return replace(health, code="TASK_IMPAIRED", detail=self._impaired)
        return health

    def metrics(self) -> dict[str, float]:
        """Stage latencies in seconds and the tasks' counters."""
        figures = self.times.percentiles()
        figures |= {"frames_total": self._finished, "frames_failed_total": self._failed, "active_seconds": self._last_at - self._first_at}
        for task in self.tasks:
            figures.update(task.metrics())
        return figures

    def _on_read(self, seconds: float) -> None:
        self.times.add("decode", seconds)
        self._first_at = self._first_at or time.perf_counter() - seconds

    def _work(self) -> None:
        """One of the workers: frames are taken in order, and inferred beside each other."""
        while (taken := self._taken()) is not None:
            frame, future = taken
            try:
                future.set_result(self._infer(frame))
            except BaseException as error:  # noqa: BLE001 - the supervisor of the stream: whoever delivers the frame hears of it
                future.set_exception(error)

    def _taken(self) -> tuple[Frame, Future[list[Any]]] | None:
        """The next frame, and the place of its predictions in the order; None at the end."""
        with self._taking:
            while not self._stopping.is_set() and not self._source.ended:
                if not self._in_flight.acquire(timeout=0.2):
                    continue
                frame = self._source.next(timeout=0.2)
                if frame is not None:
                    future: Future[list[Any]] = Future()
                    self._ordered.put((frame, future))
                    return frame, future
                self._in_flight.release()
            self._ordered.put(None)
        return None

    def _infer(self, frame: Frame) -> list[Any]:
        with self.times.stage("infer"):
            return [task.infer(frame) for task in self.tasks]

    def _deliver(self) -> None:
        while (entry := self._next()) is not None:
            frame, future = entry
            try:
                self._update(frame, self._predictions(frame, future))
            except _StoppedError:
                self._over(frame)
            except BaseException as error:  # noqa: BLE001 - the supervisor of the stream: a failed frame is counted and told, it goes on
                self._commit()
                self._frame_failed(frame, error)
                self._over(frame)
        self._flush("stopped" if self._stopping.is_set() else "stream lost" if self._lost.is_set() else "left")

    def _over(self, frame: Frame) -> None:
        """The frame has come to its end here, whatever that was."""
        self._in_flight.release()
        self._source.processed(frame)
        self._finished, self._last_at = self._finished + 1, time.perf_counter()
        self._on_progress()

    def _next(self) -> tuple[Frame, Future[list[Any]]] | None:
        """The next frame in order. What was made is committed first unless that frame can join it without a wait."""
        try:
            entry = self._ordered.get_nowait()
        except queue.Empty:
            self._commit()
            return self._awaited()
        if entry is None or entry[0].item is None or not entry[1].done() or entry[1].exception():
            self._commit()
        return entry

    def _awaited(self) -> tuple[Frame, Future[list[Any]]] | None:
        """The next frame, when it comes. While there is none, open tracks end as soon as the stream is lost."""
        while True:
            try:
                return self._ordered.get(timeout=0.5)
            except queue.Empty:
                if not self._source.hangs:
                    self._on_progress()
                if self._lost.is_set():
                    self._lost.clear()
                    self._flush("stream lost")

    def _predictions(self, frame: Frame, future: Future[list[Any]]) -> list[Any]:
        """What the tasks infer of a frame. An item waits while they fail on any picture; it is at fault where a blank one works."""
        if frame.item is None:
            return future.result()
        wait_s = RETRY_S
        try:
            return future.result()
        except BaseException as error:  # noqa: BLE001 - the supervisor of the stream: told below if it comes again
            log.warning("%s: %s is tried again: %s", self.stream, frame.item, _reason(error))
        while True:
            try:
                return self._infer(frame)
            except BaseException as error:  # the supervisor of the stream: an item's own fault goes on to where failed frames are told
                if self._works(frame):
                    raise
                self._tell_failure(error, f"{frame.item} waits until it can be processed")
            self._on_progress()
            if self._stopping.wait(wait_s):
                raise _StoppedError("stopped")
            wait_s = min(2 * wait_s, LONGEST_RETRY_S)

    def _works(self, frame: Frame) -> bool:
        """Whether the tasks can infer a blank picture of a usual size."""
        try:
            self._infer(replace(frame, image=np.zeros((*BLANK, *frame.image.shape[2:]), np.uint8), index=-1))
        except BaseException:  # noqa: BLE001 - the supervisor of the stream: the question is whether anything fails
            return False
        return True

    def _update(self, frame: Frame, predictions: list[Any]) -> None:
        with self.times.stage("update"):
            events = [event for task, made in zip(self.tasks, predictions, strict=True) for event in self._updated(task, frame, made)]
        self._made.append(_Made(frame, events, tuple(annotation for task in self.tasks for annotation in task.annotations)))
        if frame.item is None or self._failing:
            self._commit()

    def _commit(self) -> None:
        """Store what was made in one transaction; then all else that becomes of those frames, in order."""
        together, self._made = self._made, []
        if not together:
            return
        failed: BaseException | None = None
        try:
            with self.times.stage("publish"):
                numbers = self._stored([event for one in together for event in one.events], together[0].frame)
        except BaseException as error:  # noqa: BLE001 - the supervisor of the stream: told below for each of the frames
            failed = error
        first = 0
        for one in together:
            try:
                if failed:
                    raise failed
                first, before = first + len(one.events), first
                self._finish(one, None if numbers is None else numbers[before:first])
            except BaseException as error:  # noqa: BLE001 - the supervisor of the stream: a failed frame is counted and told, it goes on
                self._frame_failed(one.frame, error)
            finally:
                self._over(one.frame)

    def _finish(self, made: _Made, numbers: list[int] | None) -> None:
        """`numbers` are those that the outbox gave to the events; None: it has not taken them."""
        frame = made.frame
        if numbers:
            self._on_stored(frame, made.events, numbers)
        if numbers is not None and frame.item is not None:
            self._source.done(frame.item)
        if frame.about is None:
            self._viewer.offer(frame, made.annotations)
        if frame.item is None:
            self._note(frame.captured_at, made.annotations, made.events)
        self.times.add("total", (time.monotonic_ns() - frame.mono_ns) / 1e9)
        if self._failing:
            self._failing = ""
            self._report("running", "", "frames are processed again")
        impaired = "; ".join(task.impaired for task in self.tasks if task.impaired)
        if impaired != self._impaired:
            self._impaired = impaired
            self._report("running", "TASK_IMPAIRED" if impaired else "", impaired or "nothing is impaired any more")

    def _note(self, captured_at: float, annotations: Iterable[Annotation], events: list[Event]) -> None:
        if self._sightings:
            self._sightings.note(self.stream, captured_at, (annotation.track for annotation in annotations), events)

    def _updated(self, task: Task, frame: Frame, prediction: Any) -> list[Event]:
        """An item waits for as long as the task cannot finish it."""
        while True:
            try:
                return task.update(frame, prediction)
            except NotNowError as error:
                self._commit()
                self._tell_failure(error, f"{frame.item} waits until it can be finished")
            self._on_progress()
            if self._stopping.wait(RETRY_S):
                raise _StoppedError("stopped")

    def _stored(self, events: list[Event], first: Frame) -> list[int] | None:
        """Their numbers; None where the outbox does not take them. Items are done only once it has, so it is tried until then."""
        while True:
            try:
                return self._outbox.append("event", events, kept=first.item is not None)
            except OutboxError as error:
                log.error("%s: events could not be stored: %s", self.stream, error)
                self._on_progress()
                if first.item is None or self._stopping.wait(RETRY_S):
                    return None

    def _frame_failed(self, frame: Frame, error: BaseException) -> None:
        self._failed += 1
        if frame.item is not None:
            self._source.failed(frame.item, _reason(error))
        else:
            self._failed_live += 1
            if self._end(lambda task: task.missed(frame)):
                self.forget()
        self._tell_failure(error, f"frame {frame.index} failed")

    def _tell_failure(self, error: BaseException, what: str) -> None:
        """Once for each reason, until a frame is processed again."""
        reason = _reason(error)
        if reason != self._failing:
            self._failing = reason
            log.error("%s: %s: %s", self.stream, what, reason, exc_info=None if isinstance(error, AlmenaError) else error)
            self._report("failed", "TASK_FAILED", reason)

    def _flush(self, reason: str) -> None:
        now, mono_ns = time.time(), time.monotonic_ns()
        self._end(lambda task: task.flush(now, mono_ns, reason))
        self.forget()

    def _end(self, ending: Callable[[Task], list[Event]]) -> bool:
        """Store how each task ends what is open; whether there was anything."""
        ended = False
        for task in self.tasks:
            try:
                events = ending(task)
                self._append(events)
                self._note(0.0, (), events)
                ended |= bool(events)
            except BaseException as error:  # noqa: BLE001 - the supervisor of the stream: what one task cannot end, it tells, and the rest goes on
                self._tell_failure(error, "open tracks could not be ended")
        return ended

    def _on_state(self, health: StreamHealth) -> None:
        if health.state == "failed":
            self._lost.set()
        elif health.state == "running":
            self._lost.clear()
        self._report(health.state, health.code, health.detail)

    def _report(self, state: str, code: str, detail: str) -> None:
        data = {"state": state, "code": code, "detail": detail}
        self._append([Event(self.stream, "stream", data, time.time(), time.monotonic_ns())])

    def _append(self, events: list[Event]) -> None:
        if not events:
            return
        try:
            self._outbox.append("event", events)
        except OutboxError as error:
            log.error("%s: %d events could not be stored, the outbox declares them: %s", self.stream, len(events), error)


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, AlmenaError) else f"{type(error).__name__}: {error}"
