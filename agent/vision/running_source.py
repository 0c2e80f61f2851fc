"""Runs one source for ever: a thread of its own, another try after every failure, health and counters.

source thread:    open ─► read ─► judge the picture ─► queue ─► next() of the pipeline
                    ▲                                  │
                    └── back-off ◄── close ◄── error ◄─┘
watchdog thread:  no frame for too long, even while read() hangs ─► failed, STREAM_TIMEOUT
"""

from __future__ import annotations

import logging
import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

from agent.backoff import Backoff
from agent.datatypes import Frame, StreamHealth
from agent.errors import ItemError, SourceError
from agent.vision.base import Source
from agent.vision.health import HealthSettings, LastHour, PictureHealth, Rate, quality
from agent.vision.sources.live import LiveConfig, LiveSource

log = logging.getLogger(__name__)

QUEUE = 4
STOP_TIMEOUT_S = 5.0
WATCH_PERIOD_S = 0.5
STABLE_S = 10.0
"""A connection must have lived so long, with a frame, that the back-off starts anew: a camera that breaks off at once is not hammered."""
OPEN_ALLOWANCE_S = 20.0
"""How much longer than the stale limit a connection may take before it is called stuck; sources have shorter limits of their own."""

HANGS_AFTER_S = 300.0
"""How much longer than the stale limit until a new process is needed; far longer than any back-off."""

AGAIN = Backoff(base_s=0.5, cap_s=30.0)
"""After each failure, unless a caller says otherwise."""

_PICTURE_CODES = {"frozen": "STREAM_FROZEN", "covered": "STREAM_COVERED"}
_PICTURE_DETAILS = {
    "frozen": "frames arrive, but the picture does not change; restart the camera",
    "covered": "the picture is dark or of one colour; uncover the lens or turn on a light",
}


class RunningSource:
    """One source, kept running.

    `on_state` hears of each change of state or code, in order, on the thread that saw it;
    `on_read` hears how many seconds each frame took to read.
    """

    def __init__(
        self,
        source: Source,
        on_state: Callable[[StreamHealth], None],
        *,
        limits: HealthSettings | None = None,
        backoff: Backoff = AGAIN,
        on_read: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.source = source
        self._on_read = on_read
        self._on_state = on_state
        if limits is None:
            limits = source.config.health if isinstance(source.config, LiveConfig) else HealthSettings()
        self._limits = limits
        self._backoff = backoff
        self._picture = PictureHealth(limits)
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        """Guards the queue, the state and the counters."""
        self._announcing = threading.Lock()
        """Keeps announcements in the order of the changes."""
        self._frames: deque[Frame] = deque()
        self._over = False
        self._state, self._code, self._detail = "connecting", "", ""
        self._captured, self._processed, self._skipped = Rate(), Rate(), Rate()
        self._reconnects, self._stalls = LastHour(), LastHour()
        self._failed = 0
        self._opened_once = False
        self._open = False
        self._frames_since_open = 0
        self._stalled = False
        self._alive_at = self._opened_at = time.monotonic()
        self._size = (0, 0)
        self._last_frame_at: float | None = None
        self._threads = [threading.Thread(target=self._run, name=f"source {source.stream}", daemon=True)]
        if not source.finite and limits.stale_after_s > 0:
            self._threads.append(threading.Thread(target=self._watch, name=f"watchdog {source.stream}", daemon=True))

    def start(self) -> None:
        """Begin to open and read."""
        self._alive_at = time.monotonic()
        for thread in self._threads:
            thread.start()

    def next(self, timeout: float) -> Frame | None:
        """The next frame, or None after `timeout` seconds or at the end.

        Live sources give only the newest frame that was not taken yet, and count the older ones as skipped.
        Finite sources give every frame; their thread waits while 4 are queued.
        """
        with self._changed:
            self._changed.wait_for(lambda: bool(self._frames) or self._over, timeout)
            if not self._frames:
                return None
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    @property
    def hangs(self) -> bool:
        """Whether open() or read() of a live source has not come back for so long that its library hangs: each has limits of its own."""
        limit_s = self._limits.stale_after_s + HANGS_AFTER_S
        return not self.source.finite and self._limits.stale_after_s > 0 and time.monotonic() - self._alive_at > limit_s

    @property
    def ended(self) -> bool:
        """True once no frame will come any more: the source ended, gave up or was stopped, and the queue is empty."""
        with self._changed:
            return self._over and not self._frames

    def processed(self, frame: Frame) -> None:
        """`frame` went through all tasks."""
        with self._changed:
            self._processed.add(time.monotonic())

    def done(self, item: str) -> None:
        """All events of `item` are committed."""
        self._mark(item, "done", lambda: self.source.done(item))

    def failed(self, item: str, reason: str) -> None:
        """`item` cannot be processed."""
        with self._changed:
            self._failed += 1
        log.warning("%s: %s: %s", self.source.stream, item, reason)
        self._mark(item, "failed", lambda: self.source.failed(item, reason))

    def _mark(self, item: str, mark: str, marking: Callable[[], None]) -> None:
        try:
            marking()
        except OSError as error:
            log.error("%s: %s cannot be marked as %s: %s", self.source.stream, item, mark, error)
        except Exception:  # a supervisor: one item that cannot be marked ends neither the source nor who delivers
            log.exception("%s: %s cannot be marked as %s", self.source.stream, item, mark)

    def health(self) -> StreamHealth:
        """How the stream is doing now."""
        with self._changed:
            now = time.monotonic()
            captured = self._captured.per_second(now)
            reconnects, stalls = self._reconnects.count(now), self._stalls.count(now)
            expected = self.source.expected_per_second
            damaged = self.source.damaged if isinstance(self.source, LiveSource) else 0
            return StreamHealth(
                stream=self.source.stream,
                state=self._state,
                code=self._code,
                detail=self._detail,
                captured=self._captured.total,
                processed=self._processed.total,
                skipped=self._skipped.total,
                failed=self._failed + damaged,
                captured_per_second=captured,
                processed_per_second=self._processed.per_second(now),
                skipped_per_second=self._skipped.per_second(now),
                expected_per_second=expected,
                reconnects_last_hour=reconnects,
                stalls_last_hour=stalls,
                quality="" if self.source.finite else quality(self._state, reconnects + stalls, captured, expected),
                width=self._size[0],
                height=self._size[1],
                last_frame_at=self._last_frame_at,
            )

    def interrupt(self) -> None:
        """Ask the source to end; waits for nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self.source.interrupt()
        with self._changed:
            self._changed.notify_all()

    def stop(self, until: float = math.inf) -> None:
        """Stop and free the source. A read() that hangs in its library, after STOP_TIMEOUT_S and at `until` (monotonic), is left behind on
        its thread, with a warning."""
        self.interrupt()
        until = min(until, time.monotonic() + STOP_TIMEOUT_S)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            log.warning("%s: the source does not answer; its thread is left behind", self.source.stream)

    def _run(self) -> None:
        attempt = 0
        try:
            while not self._stopping.is_set():
                problem = self._one_session()
                if problem is None:
                    break
                if self._frames_since_open and time.monotonic() - self._opened_at >= STABLE_S:
                    attempt = 0
                self._fail(problem)
                if problem.fatal:
                    break
                self._stopping.wait(self._backoff.delay(attempt))
                attempt += 1
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _one_session(self) -> SourceError | None:
        """Open, read until something goes wrong, close. None at the end of a finite source and at a stop."""
        self._frames_since_open = 0
        try:
            try:
                self._read_all()
            finally:
                self._open = False
                self.source.close()
        except SourceError as error:
            return error
        except BaseException as error:  # noqa: BLE001 - a supervisor: the stream outlives a fault of its source
            # The message may hold an address with a password, so only its place and its type are logged.
            log.error("%s: %s in\n%s", self.source.stream, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
            return SourceError("STREAM_FAILED", f"the source failed with {type(error).__name__}; the log shows where")
        return None

    def _read_all(self) -> None:
        self._alive_at = time.monotonic()
        self.source.open()
        self._alive_at = self._opened_at = time.monotonic()
        self._open = True
        self._picture.reset()
        with self._changed:
            if self._opened_once:
                self._reconnects.add(self._alive_at)
            self._opened_once = True
        if self.source.finite:
            self._set_state("running")
        while not self._stopping.is_set():
            asked = time.perf_counter()
            try:
                frame = self.source.read()
            except ItemError as error:
                self.failed(error.item, error.reason)
                continue
            if frame is None:
                if not self._stopping.is_set():
                    self._set_state("finished")
                return
            self._on_read(time.perf_counter() - asked)
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        now = time.monotonic()
        with self._changed:
            self._alive_at, self._stalled = now, False
            self._frames_since_open += 1
            self._captured.add(now)
            self._size = (frame.image.shape[1], frame.image.shape[0])
            self._last_frame_at = frame.captured_at
        if not self.source.finite:
            verdict = self._picture.judge(frame.image, now)
            self._set_state(verdict or "running", _PICTURE_CODES.get(verdict, ""), _PICTURE_DETAILS.get(verdict, ""))
        with self._changed:
            if self.source.finite:
                self._changed.wait_for(lambda: len(self._frames) < QUEUE or self._stopping.is_set())
            elif self._frames:
                self._frames.clear()
                self._skipped.add(now)
            self._frames.append(frame)
            self._changed.notify_all()

    def _fail(self, problem: SourceError) -> None:
        if problem.code == "STREAM_TIMEOUT" and self._frames_since_open:
            self._count_stall()
        self._set_state("failed", problem.code, str(problem))

    def _watch(self) -> None:
        while not self._stopping.wait(min(WATCH_PERIOD_S, self._limits.stale_after_s / 4)):
            allowed = self._limits.stale_after_s + (0.0 if self._open else OPEN_ALLOWANCE_S)
            silent = time.monotonic() - self._alive_at
            if silent > allowed and self._state != "failed" and not self._over:
                what = "no frame" if self._open else "no connection"
                if self._open:
                    self._count_stall()
                self._set_state("failed", "STREAM_TIMEOUT", f"{what} for {silent:.0f} s; check camera and network")

    def _count_stall(self) -> None:
        with self._changed:
            if not self._stalled:
                self._stalls.add(time.monotonic())
            self._stalled = True

    def _set_state(self, state: str, code: str = "", detail: str = "") -> None:
        if (state, code) == (self._state, self._code):
            with self._changed:
                self._detail = detail
            return
        with self._announcing:
            with self._changed:
                self._state, self._code, self._detail = state, code, detail
            (log.warning if code else log.info)("%s: %s%s", self.source.stream, state, f": {code}: {detail}" if code else "")
            try:
                self._on_state(self.health())
            except Exception:  # a supervisor: who listens must not stop the stream
                log.exception("%s: a listener failed", self.source.stream)
