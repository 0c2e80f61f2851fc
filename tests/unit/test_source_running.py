"""RunningSource over scripted sources: retry, queues, states, counters."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from agent.backoff import Backoff
from agent.config import Config
from agent.datatypes import Frame, Image, StreamHealth
from agent.errors import ItemError, SourceError
from agent.vision import running_source
from agent.vision.base import Source
from agent.vision.health import HealthSettings
from agent.vision.running_source import RunningSource
from tests.fakes.running import Start, running_sources
from tests.waiting import wait_until

pytestmark = pytest.mark.unit

AT_ONCE = Backoff(0.0, 0.0)
CALM = HealthSettings(stale_after_s=60, frozen_after_s=0, covered_after_s=0)


class ScriptedSource(Source):
    """Each opening plays the next script: what open() and then each read() return or raise."""

    Config = Config

    def __init__(self, *scripts: Iterator[Image | Exception | None], finite: bool = False) -> None:
        super().__init__(Config(), "test")
        self._scripts = iter(scripts)
        self._script: Iterator[Image | Exception | None] = iter(())
        self._is_finite = finite
        self.index = 0
        self.opened = self.closed = 0
        self.marks: list[tuple[str, ...]] = []

    @property
    def finite(self) -> bool:
        return self._is_finite

    def open(self) -> None:
        self.opened += 1
        self._script = next(self._scripts)

    def read(self) -> Frame | None:
        step = next(self._script)
        if isinstance(step, Exception):
            raise step
        if step is None:
            return None
        self.index += 1
        return Frame(step, self.stream, self.index - 1, time.time(), time.monotonic_ns())

    def close(self) -> None:
        self.closed += 1

    def done(self, item: str) -> None:
        self.marks.append(("done", item))

    def failed(self, item: str, reason: str) -> None:
        self.marks.append(("failed", item, reason))


def picture(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)


def lost() -> SourceError:
    return SourceError("STREAM_LOST", "gone")


def held(release: threading.Event, then: Image | Exception | None = None) -> Iterator[Image | Exception | None]:
    """A read() that hangs until `release`."""
    release.wait(30)
    yield then if then is not None else lost()


@pytest.fixture
def run() -> Iterator[Start]:
    with running_sources(limits=CALM, backoff=AT_ONCE) as start:
        yield start


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets a read() that hangs go on; at the end in any case, before the source is stopped."""
    event = threading.Event()
    yield event
    event.set()


def test_a_finite_source_loses_nothing_is_pushed_back_and_not_judged_by_its_rate(run: Start) -> None:
    class Recording(ScriptedSource):
        expected_per_second = 1000.0

    source = Recording(iter([*[picture(number) for number in range(20)], None]), finite=True)
    running, heard = run(source)
    wait_until(lambda: source.index == 5, 5, "four frames in the queue and one in hand")
    assert not running.ended
    assert (running.health().expected_per_second, running.health().quality) == (1000.0, ""), "a recording has no connection to judge"
    taken = []
    while (frame := running.next(30)) is not None:
        taken.append(frame.index)
        running.processed(frame)
        assert source.index <= frame.index + 6
    assert taken == list(range(20))
    assert running.ended
    health = running.health()
    assert (health.state, health.captured, health.processed, health.skipped) == ("finished", 20, 20, 0)
    assert heard == [("running", ""), ("finished", "")]
    assert source.closed == 1


def test_a_live_source_gives_only_the_newest_frame_and_counts_the_others(run: Start, release: threading.Event) -> None:
    def script() -> Iterator[Image]:
        yield from (picture(number) for number in range(8))
        yield from held(release)  # type: ignore[misc]

    source = ScriptedSource(script())
    running, _ = run(source)
    wait_until(lambda: running.health().captured == 8, 5, "eight frames")
    frame = running.next(30)
    assert frame is not None
    assert frame.index == 7
    assert running.health().skipped == 7
    assert running.next(0.01) is None
    assert not running.ended


def test_it_reconnects_and_says_each_change_once(run: Start, release: threading.Event) -> None:
    def second() -> Iterator[Image | Exception | None]:
        yield picture(2)
        yield from held(release)

    source = ScriptedSource(iter([picture(1), lost()]), iter([lost()]), iter([lost()]), second())
    running, heard = run(source)
    wait_until(lambda: len(heard) == 3, 5, "running again")
    assert heard == [("running", ""), ("failed", "STREAM_LOST"), ("running", "")]
    health = running.health()
    assert health.reconnects_last_hour == 3
    assert health.quality == "fair"
    assert (health.width, health.height) == (64, 48)


def test_two_hundred_failed_tries_leak_neither_files_nor_threads(run: Start, tmp_path: Path) -> None:
    class Leaky(ScriptedSource):
        """Takes a file at each opening, then fails; gives it back only if closed."""

        file = None

        def open(self) -> None:
            self.opened += 1
            assert self.file is None
            self.file = (tmp_path / "device").open("w")
            raise SourceError("STREAM_NOT_FOUND", "not there")

        def close(self) -> None:
            if self.file is not None:
                self.file.close()
            self.file = None

    source = Leaky()
    _, heard = run(source)
    wait_until(lambda: source.opened >= 5, 5, "the first tries")
    process = psutil.Process(os.getpid())
    files, threads = process.num_fds(), threading.active_count()
    wait_until(lambda: source.opened >= 205, 10, "two hundred more")
    wait_until(lambda: process.num_fds() <= files + 1, 5, "the files to be closed")
    wait_until(lambda: threading.active_count() == threads, 5, "the threads to end")
    assert heard == [("failed", "STREAM_NOT_FOUND")]


def test_the_back_off_starts_anew_after_a_connection_that_held(
    run: Start, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_source, "STABLE_S", 0.0)
    asked: list[float] = []
    scripts = [iter([lost()]), iter([lost()]), iter([picture(1), lost()]), iter([lost()]), held(release)]
    run(ScriptedSource(*scripts), backoff=Backoff(1, 30, uniform=lambda low, high: asked.append(high) or 0.0))  # type: ignore[func-returns-value]
    wait_until(lambda: len(asked) == 4, 5, "four waits")
    assert asked == [1, 2, 1, 2]


def test_a_camera_that_breaks_off_after_each_frame_is_not_hammered(run: Start, release: threading.Event) -> None:
    asked: list[float] = []
    scripts = [iter([picture(1), lost()]) for _ in range(4)]
    run(ScriptedSource(*scripts, held(release)), backoff=Backoff(1, 30, uniform=lambda low, high: asked.append(high) or 0.0))  # type: ignore[func-returns-value]
    wait_until(lambda: len(asked) == 4, 5, "four waits")
    assert asked == [1, 2, 4, 8]


def test_the_detail_is_that_of_the_latest_failure(run: Start, release: threading.Event) -> None:
    first, second = SourceError("STREAM_NOT_FOUND", "connection refused"), SourceError("STREAM_NOT_FOUND", "no such path")
    running, heard = run(ScriptedSource(iter([first]), iter([second]), held(release)))
    wait_until(lambda: running.health().detail == "no such path", 5, "the second reason")
    assert heard == [("failed", "STREAM_NOT_FOUND")]


def test_a_read_that_hangs_is_noticed_and_healed(run: Start) -> None:
    release, end = threading.Event(), threading.Event()

    def script() -> Iterator[Image | Exception | None]:
        yield picture(1)
        yield from held(release, picture(2))
        yield from held(end)

    running, heard = run(ScriptedSource(script()), limits=HealthSettings(stale_after_s=0.3))
    wait_until(lambda: ("failed", "STREAM_TIMEOUT") in heard, 5, "the watchdog")
    assert running.health().stalls_last_hour == 1
    assert "no frame for" in running.health().detail
    release.set()
    wait_until(lambda: heard.count(("running", "")) > 1, 5, "running again")
    assert running.health().reconnects_last_hour == 0
    end.set()


def test_a_connection_that_hangs_is_noticed_and_is_no_stall(run: Start, release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_source, "OPEN_ALLOWANCE_S", 0.1)

    class Hanging(ScriptedSource):
        def open(self) -> None:
            super().open()
            release.wait(30)

    running, heard = run(Hanging(iter([picture(1), lost()]), iter(())), limits=HealthSettings(stale_after_s=0.2))
    wait_until(lambda: heard == [("failed", "STREAM_TIMEOUT")], 5, "the watchdog")
    assert "no connection for" in running.health().detail
    assert running.health().stalls_last_hour == 0


def test_a_read_time_out_of_the_source_is_one_stall(run: Start, release: threading.Event) -> None:
    running, heard = run(ScriptedSource(iter([picture(1), SourceError("STREAM_TIMEOUT", "silent")]), held(release)))
    wait_until(lambda: ("failed", "STREAM_TIMEOUT") in heard, 5, "the time-out")
    assert running.health().stalls_last_hour == 1


def endless(stop: threading.Event, make: Callable[[int], Image]) -> Iterator[Image | Exception | None]:
    number = 0
    while not stop.wait(0.01):
        yield make(number)
        number += 1
    yield lost()


@pytest.mark.parametrize(
    ("image", "state", "code"),
    [(picture(3), "frozen", "STREAM_FROZEN"), (np.full((72, 72, 3), 9, np.uint8), "covered", "STREAM_COVERED")],
)
def test_frozen_and_covered_are_told_apart_and_heal(run: Start, image: Image, state: str, code: str) -> None:
    stop, healed = threading.Event(), threading.Event()

    def make(number: int) -> Image:
        return picture(number) if healed.is_set() else image

    limits = HealthSettings(stale_after_s=60, frozen_after_s=0.5, covered_after_s=0.2, check_period_s=0.02)
    running, heard = run(ScriptedSource(endless(stop, make)), limits=limits)
    wait_until(lambda: (state, code) in heard, 5, state)
    assert running.next(30) is not None
    assert running.health().quality == "unusable"
    healed.set()
    wait_until(lambda: heard[-1] == ("running", ""), 5, "running again")
    stop.set()


def test_finite_sources_are_never_called_frozen(run: Start) -> None:
    source = ScriptedSource(iter([*[picture(1)] * 30, None]), finite=True)
    running, heard = run(source, limits=HealthSettings(frozen_after_s=0.001, covered_after_s=0.001, check_period_s=0.0001))
    while running.next(30) is not None:
        pass
    assert heard == [("running", ""), ("finished", "")]


def test_a_bad_item_is_marked_and_the_stream_goes_on(run: Start) -> None:
    source = ScriptedSource(iter([picture(1), ItemError("item-2", "no image"), picture(3), None]), finite=True)
    running, _ = run(source)
    frames = []
    while (frame := running.next(30)) is not None:
        frames.append(frame)
    assert len(frames) == 2
    running.done("item-1")
    assert source.marks == [("failed", "item-2", "no image"), ("done", "item-1")]
    assert running.health().failed == 1


@pytest.mark.parametrize("error", [PermissionError("read-only file system"), ValueError("a name that no folder takes")])
def test_a_mark_that_fails_is_logged_and_ends_nothing(run: Start, caplog: pytest.LogCaptureFixture, error: Exception) -> None:
    class Unmarkable(ScriptedSource):
        def done(self, item: str) -> None:
            raise error

        def failed(self, item: str, reason: str) -> None:
            raise error

    running, heard = run(Unmarkable(iter([ItemError("item-1", "no image"), picture(2), None]), finite=True))
    assert running.next(30) is not None
    running.done("item-2")
    wait_until(lambda: running.ended, 5, "the end")
    assert [state for state, _ in heard] == ["running", "finished"], "no start anew, which would meet the same item again"
    assert running.health().failed == 1
    for words in ("item-1 cannot be marked as failed", "item-2 cannot be marked as done", str(error)):
        assert words in caplog.text


def test_a_fatal_error_is_not_tried_again(run: Start) -> None:
    source = ScriptedSource(iter([picture(1), SourceError("STREAM_DAMAGED", "cut off", fatal=True)]), finite=True)
    running, heard = run(source)
    assert running.next(30) is not None
    assert running.next(30) is None
    wait_until(lambda: running.ended, 5, "the end")
    assert heard[-1] == ("failed", "STREAM_DAMAGED")
    assert source.opened == 1


def test_a_fault_in_the_source_is_logged_without_its_text(run: Start, release: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    source = ScriptedSource(iter([RuntimeError("rtsp://user:s3cret@host")]), held(release))
    running, heard = run(source)
    wait_until(lambda: source.opened == 2, 5, "another try")
    assert heard == [("failed", "STREAM_FAILED")]
    assert "RuntimeError" in caplog.text
    assert "read" in caplog.text
    assert "s3cret" not in caplog.text + running.health().detail


def test_a_listener_that_fails_does_not_stop_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    def listener(health: StreamHealth) -> None:
        raise OSError("disk full")

    running = RunningSource(ScriptedSource(iter([picture(1), None]), finite=True), listener, limits=CALM)
    running.start()
    assert running.next(30) is not None
    wait_until(lambda: running.ended, 5, "the end")
    assert "a listener failed" in caplog.text
    running.stop()


def test_stop_wakes_a_source_that_is_pushed_back(run: Start) -> None:
    source = ScriptedSource(iter([picture(number) for number in range(50)]), finite=True)
    running, _ = run(source)
    wait_until(lambda: source.index == 5, 5, "a full queue")
    running.stop()
    assert source.closed == 1


def test_a_read_that_hangs_for_ever_does_not_hold_up_a_stop(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(running_source, "STOP_TIMEOUT_S", 0.2)
    release = threading.Event()
    source = ScriptedSource(held(release))
    running = RunningSource(source, lambda health: None, limits=CALM)
    running.start()
    wait_until(lambda: source.opened, 5, "the opening")
    running.stop()
    assert "the source does not answer" in caplog.text
    release.set()
    wait_until(lambda: source.closed, 5, "the thread's end")


def test_stop_before_start_does_no_harm() -> None:
    RunningSource(ScriptedSource(), lambda health: None).stop()
