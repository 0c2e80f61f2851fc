"""What a supervisor hears of vision and uplink: progress, waiting for what no new process would cure, or neither."""

from __future__ import annotations

import errno
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import yaml

from agent.datatypes import Event
from agent.errors import SourceError
from agent.outbox import Outbox, OutboxError, OutboxFullError, schema
from agent.outbox.rows import OutboxReadOnlyError
from agent.registry import SOURCES, TASKS
from agent.settings import OutboxSettings, Settings
from agent.uplink import app
from agent.vision import loading as loading_module
from agent.vision import running_source, service
from agent.vision.face_kit import engine_options
from agent.vision.loading import PULSE
from agent.vision.pipeline import Pipeline
from agent.vision.running_source import RunningSource
from agent.vision.service import Vision
from engines.model import load_classifier
from tests.fakes.fleet import write_settings
from tests.fakes.plugins import Camera, Counting, NoViewer
from tests.fakes.running import running_sources
from tests.fakes.small_disk import fill, on_small_disk
from tests.fakes.small_model import small_card
from tests.fakes.stream_plugins import cameras, tasks
from tests.fakes.uplinks import uplink
from tests.waiting import wait_until

pytestmark = pytest.mark.unit


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody can write to the outbox in this folder, although there is room."""
    with closing(sqlite3.connect(folder / "outbox.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a locked file it is said at once that it is."""
    monkeypatch.setattr(schema, "BUSY_S", 0.02)


@pytest.fixture
def vision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vision]:
    monkeypatch.setitem(SOURCES, "test-camera", "tests.fakes.stream_plugins:TestCamera")
    monkeypatch.setitem(TASKS, "test-task", "tests.fakes.stream_plugins:TestTask")
    streams = [{"name": "cam", "source": {"type": "test-camera"}, "tasks": [{"type": "test-task"}]}]
    (tmp_path / "almena.yaml").write_text(yaml.safe_dump({"state_dir": str(tmp_path / "state"), "streams": streams}))
    one = Vision(tmp_path / "almena.yaml")
    yield one
    one.stop()
    cameras.clear()
    tasks.clear()


def event() -> Event:
    return Event("cam", "count", {}, time.time(), time.monotonic_ns())


def test_an_outbox_that_cannot_be_written_says_for_how_long(tmp_path: Path) -> None:
    with Outbox.open(tmp_path, "dev-1", OutboxSettings()) as outbox:
        outbox.append("event", [event(), event()])
        outbox.tidy()
        assert outbox.failing_for_s == 0
        with locked(tmp_path):
            with pytest.raises(OutboxError, match="locked"):
                outbox.settle("event", outbox.stats()["event"]["spool"], upto=1)
            before = outbox.failing_for_s
            assert before > 0
            outbox.tidy()
            assert outbox.failing_for_s > before, "that there is nothing to tidy says nothing"
            with pytest.raises(OutboxError, match="locked"):
                outbox.append("event", [event()])
            outbox.append("telemetry", [event()])
            assert outbox.failing_for_s > before, "another file can be written"
        outbox.tidy()
        assert outbox.failing_for_s == 0
        assert outbox.stats()["event"]["lost"] == 1


@on_small_disk(8)
def test_a_full_disk_is_no_reason_for_a_new_process(small_disk: Path) -> None:
    with Outbox.open(small_disk / "outbox", "dev-1", OutboxSettings()) as outbox:
        fill(small_disk)
        big = Event("cam", "count", {"pad": "x" * 400_000}, time.time(), time.monotonic_ns())
        for _ in range(5):
            with pytest.raises(OutboxFullError):
                outbox.append("event", [big] * 5)
        assert outbox.failing_for_s == 0


def test_neither_is_a_disk_that_is_read_only(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as made:
        made.execute("CREATE TABLE one(n)")
    with closing(sqlite3.connect(f"file:{tmp_path / 'db'}?mode=ro", uri=True)) as database, pytest.raises(sqlite3.Error) as raised:
        database.execute("INSERT INTO one VALUES (1)")
    assert schema.error_of(raised.value) is schema.error_of(OSError(errno.EROFS, "read-only")) is OutboxReadOnlyError
    with Outbox.open(tmp_path / "outbox", "dev-1", OutboxSettings()) as outbox:
        outbox._failing.failed("main", OutboxReadOnlyError("attempt to write a readonly database"))
        assert outbox.failing_for_s == 0


def test_vision_is_stuck_where_storing_fails_for_ever(vision: Vision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STORES_WITHIN_S", 0.0)
    vision.start()
    wait_until(vision.metrics, 30, "the pipeline")
    wait_until(lambda: vision.outbox.failing_for_s == 0 and vision.stuck_for_s < 1, 30, "calm")
    with locked(tmp_path / "state" / "outbox"):
        with pytest.raises(OutboxError):
            vision.outbox.append("event", [event()])
        wait_until(lambda: vision.stuck_for_s > 1.5, 30, "it to be stuck, although the stream waits for frames")
    wait_until(lambda: vision.stuck_for_s < 1, 30, "a look to find that storing works")
    assert vision.outbox.failing_for_s == 0


def test_vision_is_stuck_where_no_step_of_a_load_ends(vision: Vision, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def init(self: Counting, *_: object) -> None:
        Counting.__init__(self)
        loading.set()
        assert go_on.wait(60)

    monkeypatch.setattr("tests.fakes.stream_plugins.TestTask.__init__", init)
    vision.start()
    try:
        assert loading.wait(30)
        PULSE("fetch")
        assert vision.stuck_for_s == 0
        long_ago = time.monotonic() - loading_module.WITHIN_S - 500
        vision._streams["cam"].progress_ns = int(long_ago * 1e9)
        assert vision.stuck_for_s == 0, "what was fetched or built meanwhile, for whichever stream"
        monkeypatch.setattr(PULSE, "at", long_ago)
        assert vision.stuck_for_s >= 500
        PULSE("build")
        assert vision.stuck_for_s == 0
    finally:
        go_on.set()
    wait_until(vision.metrics, 30, "the pipeline")
    monkeypatch.setattr(PULSE, "at", long_ago)
    vision.serving._looked_at = long_ago
    wait_until(lambda: vision.stuck_for_s < 500, 30, "the next look of what loads served models")


def test_steps_of_a_real_build_are_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PULSE, "at", 0.0)
    options = engine_options(Settings(state_dir=tmp_path))
    with closing(load_classifier(str(small_card(tmp_path)), options)):
        assert PULSE.at > 0
    monkeypatch.setattr(PULSE, "at", 0.0)
    options.progress("brightness", 1, 2)
    assert PULSE.at > 0


def test_a_camera_whose_library_hangs_is_no_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_source, "HANGS_AFTER_S", -10.0)  # beside the 10 s after which it is stale: at once
    camera, told = Camera(), threading.Event()
    asked = threading.Semaphore(0)
    hangs = RunningSource.hangs.fget
    assert hangs is not None

    def looked(source: RunningSource) -> bool:
        asked.release()
        return bool(hangs(source))

    monkeypatch.setattr(RunningSource, "hangs", property(looked))
    with Outbox.open(tmp_path, "dev-1", OutboxSettings()) as outbox:
        pipeline = Pipeline(camera, (Counting(),), outbox, NoViewer(), told.set)
        pipeline.start()
        try:
            for _ in range(2):
                assert asked.acquire(timeout=30)
            assert not told.is_set(), "read() has not come back"
            monkeypatch.setattr(running_source, "HANGS_AFTER_S", 3600.0)
            assert told.wait(30), "waiting for a frame is no reason"
        finally:
            pipeline.stop()


def test_a_camera_that_is_away_does_not_hang() -> None:
    """Each attempt ends, with an error."""

    class Away(Camera):
        def open(self) -> None:
            raise SourceError("STREAM_UNREACHABLE", "nobody there")

    with running_sources() as run:
        running, heard = run(Away())
        wait_until(lambda: heard, 30, "the first attempt")
        before = running._alive_at
        wait_until(lambda: running._alive_at > before, 30, "another one")
        assert not running.hangs


def test_the_uplink_is_stuck_where_settling_fails_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "STORES_WITHIN_S", 1.0)
    with uplink(write_settings(tmp_path, 1)) as one:
        one.outbox.append("event", [event()])
        wait_until(one.look, 30, "calm, with the broker away")
        with locked(tmp_path / "state" / "outbox"):
            with pytest.raises(OutboxError):
                one.outbox.settle("event", one.outbox.stats()["event"]["spool"], upto=1)
            wait_until(lambda: not one.look(), 30, "it to be stuck")
        one.outbox.settle("event", one.outbox.stats()["event"]["spool"], upto=1)
        wait_until(one.look, 30, "it to work again")
