"""Streams that cannot start, settings that change, tracks that a crash left open."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from agent.config import Config
from agent.datatypes import Event
from agent.errors import AlmenaError, SettingsError, UnknownError
from agent.outbox import Outbox, OutboxFullError
from agent.registry import SOURCES, TASKS
from agent.settings import OutboxSettings, Settings
from agent.vision import service
from agent.vision.face_kit import open_gallery
from agent.vision.interrupted import end_interrupted
from agent.vision.service import Vision
from tests.fakes.plugins import Camera, Counting, told
from tests.waiting import wait_until

pytestmark = pytest.mark.unit

problems: list[Exception] = []
"""What the next starts of a task raise, one each."""
cameras: list[TestCamera] = []
tasks: list[TestTask] = []


class CameraConfig(Config):
    type: Literal["test-camera"]
    pace: float = 1.0


class TestCamera(Camera):
    __test__ = False
    Config = CameraConfig

    def __init__(self, config: CameraConfig, stream: str) -> None:
        super().__init__()
        self.config, self.stream = config, stream
        cameras.append(self)


class TaskConfig(Config):
    type: Literal["test-task"]
    card: str = "none"


class TestTask(Counting):
    __test__ = False
    Config = TaskConfig

    def __init__(self, config: TaskConfig, stream: str, settings: Settings) -> None:
        super().__init__()
        tasks.append(self)
        if problems:
            raise problems.pop(0)


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registered as anybody would register theirs."""
    monkeypatch.setitem(sys.modules, "test_plugins_here", sys.modules[__name__])
    monkeypatch.setitem(SOURCES, "test-camera", "test_plugins_here:TestCamera")
    monkeypatch.setitem(TASKS, "test-task", "test_plugins_here:TestTask")
    monkeypatch.setattr(service, "RETRY_S", (0.01,))
    yield
    problems.clear()
    cameras.clear()
    tasks.clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "almena.yaml")


def write(path: Path, tasks_per_stream: int = 1, pace: float = 1.0, text: str = "", card: str = "none") -> Path:
    task = {"type": "test-task", "card": card}
    stream = {"name": "cam", "source": {"type": "test-camera", "pace": pace}, "tasks": [task] * tasks_per_stream}
    path.write_text(yaml.safe_dump({"state_dir": "state", "streams": [stream]}) + text)
    return path


@pytest.fixture
def started(path: Path) -> Iterator[Callable[[], Vision]]:
    running: list[Vision] = []

    def start() -> Vision:
        running.append(Vision(path))
        running[0].start()
        return running[0]

    yield start
    for vision in running:
        vision.stop()


def state(vision: Vision) -> tuple[str, str, str]:
    (health,) = vision.streams()
    return health.state, health.code, health.detail


def runs(vision: Vision) -> None:
    """Let a frame through."""
    wait_until(lambda: vision.metrics(), 10, "the pipeline to start")
    cameras[-1].give(1)
    wait_until(lambda: state(vision)[0] == "running", 10, "the stream to run")


def test_streams_are_there_before_they_start(path: Path) -> None:
    vision = Vision(path)
    assert state(vision) == ("connecting", "", "")
    vision.start()
    vision.stop()


def test_a_model_that_cannot_be_loaded_is_said_and_tried_again(started: Callable[[], Vision]) -> None:
    problems.extend([AlmenaError("centerface.onnx has another SHA-256")] * 50)
    vision = started()
    wait_until(lambda: state(vision) == ("failed", "TASK_FAILED", "centerface.onnx has another SHA-256"), 10, "the failure")
    assert vision.metrics() == {}
    assert vision.annotations("cam") == ()
    assert vision.engines() == []
    assert vision.stuck_for_s < 1
    runs(vision)
    assert len(tasks) == 51
    states = [(one["state"], one["detail"]) for one in told(vision.outbox.history(after_seq=0), "stream")]
    assert states == [("failed", "centerface.onnx has another SHA-256"), ("running", "")]


def test_unexpected_errors_are_said_too_and_loaded_tasks_freed(path: Path, started: Callable[[], Vision]) -> None:
    write(path, tasks_per_stream=2)
    problems.extend([None, ImportError("libfoo.so.1: cannot open")])  # type: ignore[list-item]
    original = TestTask.__init__

    def init(self: TestTask, *arguments: Any) -> None:
        if problems and problems[0] is None:
            problems.pop(0)
            Counting.__init__(self)
            tasks.append(self)
        else:
            original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TestTask, "__init__", init)
        vision = started()
        runs(vision)
    assert tasks[0].closed == 1
    details = [one["detail"] for one in told(vision.outbox.history(after_seq=0), "stream")]
    assert details[0] == "ImportError: libfoo.so.1: cannot open"


def test_a_stop_while_models_load_waits_and_frees(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def slow(self: TestTask, *_: Any) -> None:
        Counting.__init__(self)
        tasks.append(self)
        loading.set()
        assert go_on.wait(10)

    monkeypatch.setattr(TestTask, "__init__", slow)
    vision = Vision(path)
    vision.start()
    assert loading.wait(10)
    stopper = threading.Thread(target=vision.stop)
    stopper.start()
    go_on.set()
    stopper.join(10)
    assert not stopper.is_alive()
    assert tasks[0].closed == 1


def test_loading_for_minutes_is_not_being_stuck_but_a_stalled_pipeline_is(started: Callable[[], Vision]) -> None:
    vision = started()
    stream = vision._streams["cam"]
    runs(vision)
    stream._thread.join()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "pipeline", None)
        stream.progress_ns = time.monotonic_ns() - 300 * 10**9
        assert vision.stuck_for_s < 1
    release = threading.Event()
    tasks[0].trouble = lambda frame: release.wait(20) and None
    cameras[0].give(1)
    wait_until(lambda: tasks[0].at_once, 10, "the task to hang")
    stream.progress_ns = time.monotonic_ns() - 300 * 10**9
    assert vision.stuck_for_s >= 300
    release.set()
    wait_until(lambda: vision.stuck_for_s < 1, 10, "progress")


def test_reload(path: Path, started: Callable[[], Vision]) -> None:
    vision = started()
    runs(vision)
    before = vision.settings
    write(path, text="surplus: 1\n")
    with pytest.raises(SettingsError, match="surplus"):
        vision.reload()
    assert vision.settings is before
    write(path, text="# only a remark\n")
    assert vision.reload() is False
    assert len(cameras) == 1
    assert state(vision)[0] == "running"
    write(path, text="telemetry: {period_s: 7}\nmqtt: {port: 1884}\n")
    assert vision.reload() is False
    assert vision.restart_needed == ("mqtt", "telemetry")
    assert vision.settings == before
    write(path, pace=2.0)
    assert vision.reload() is True
    assert vision.restart_needed == ()
    runs(vision)
    assert [camera.config.pace for camera in cameras] == [1.0, 2.0]
    assert tasks[0].closed == 1
    assert told(vision.outbox.history(after_seq=0), "end") == [{"reason": "stopped"}]


def test_an_edited_card_is_taken_at_a_reload(path: Path, started: Callable[[], Vision]) -> None:
    card = path.with_name("parts.yaml")
    card.write_text("thresholds: {score: 0.5}\n")
    write(path, card=str(card))
    vision = started()
    runs(vision)
    assert vision.reload() is False
    card.write_text("thresholds: {score: 0.6}\n")
    assert vision.reload() is True
    assert vision.reload() is False
    assert len(cameras) == 2


def test_a_full_disk_at_the_start_does_not_keep_streams_from_running(
    path: Path, started: Callable[[], Vision], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Outbox) -> int:
        raise OutboxFullError("no room")

    monkeypatch.setattr(service, "end_interrupted", refuse)
    runs(started())


def test_an_erasure_is_followed_from_the_start_and_after_a_reload(path: Path, started: Callable[[], Vision]) -> None:
    def erased(name: str) -> None:
        with closing(open_gallery(vision.settings)) as gallery:
            person = gallery.add(name, [])
            vision.outbox.append("event", [Event("cam", "seen", {"identity": person.id, "name": name}, 1.0, 1)])
            gallery.erase(person.id)

    vision = Vision(path)
    erased("Zacharias")
    vision.stop()
    vision = started()
    wait_until(lambda: told(vision.outbox.history(), "seen") == [{"identity": None, "name": None}], 10, "the name to go")
    write(path, pace=2.0)
    assert vision.reload() is True
    erased("Yolanda")
    wait_until(lambda: told(vision.outbox.history(), "seen") == [{"identity": None, "name": None}] * 2, 10, "the other name to go")


def test_stream_names_that_do_not_exist(started: Callable[[], Vision]) -> None:
    vision = started()
    for ask in (vision.preview, vision.annotations):
        with pytest.raises(UnknownError):
            ask("attic")


def face(track: str, kind: str, at: float, stream: str = "cam") -> Event:
    data = {
        "type": kind, "track": track, "box": [1, 2, 3, 4], "score": 0.9, "started_at": 1.0, "ended_at": at if kind == "end" else None,
        "identity": None, "name": None, "decision": "unknown", "distance": None, "threshold": 0.5, "second_best": None, "cluster": None,
        "frames": 3, "reason": "left" if kind == "end" else None,
    }  # fmt: skip
    return Event(stream, "face", data, at, 1, "model")


def test_interrupted_tracks_end_once_even_when_the_clock_was_stepped(tmp_path: Path) -> None:
    with Outbox.open(tmp_path, "dev", OutboxSettings()) as outbox:
        assert end_interrupted(outbox) == 0
        outbox.append("event", [face("a", "new", 1000.0), face("b", "new", 1001.0), face("a", "new", 1002.0, "attic")])
        outbox.append("event", [face("c", "new", 90_000.0)])  # a day ahead
        outbox.append("event", [face("c", "end", 1003.0), face("b", "update", 1004.0), face("a", "end", 1005.0, "attic")])
        assert end_interrupted(outbox) == 2
        ends = outbox.history(kind="face", after_seq=7)
        assert [(one["stream"], one["data"]["track"], one["data"]["reason"]) for one in ends] == [
            ("cam", "a", "interrupted"),
            ("cam", "b", "interrupted"),
        ]
        assert [one["data"]["ended_at"] for one in ends] == [1000.0, 1004.0]
        assert all(one["model"] == "model" for one in ends)
        assert end_interrupted(outbox) == 0


def test_interrupted_tracks_end_also_when_nothing_is_left_of_them_in_the_history(tmp_path: Path) -> None:
    person = {"decision": "known", "identity": "p-1", "name": "Zacharias"}
    with Outbox.open(tmp_path, "dev", OutboxSettings(history_bytes=0)) as outbox:
        outbox.append("event", [face("a", "new", 1000.0), face("b", "new", 1001.0), face("b", "update", 1002.0), face("c", "new", 1003.0)])
        one = face("d", "new", 1004.0)
        outbox.append("event", [replace(one, data={**one.data, **person}), face("c", "end", 1005.0)])
        for row in outbox.pending("event", 10):
            outbox.settle("event", row.spool, row.seq)
        assert outbox.history() == []
        outbox.erase("p-1")
        assert end_interrupted(outbox) == 3
        told = [one["data"] for one in outbox.history(after_seq=0)]
        assert [(data["track"], data["ended_at"], data["reason"]) for data in told] == [
            ("a", 1000.0, "interrupted"),
            ("b", 1002.0, "interrupted"),
            ("d", 1004.0, "interrupted"),
        ]
        assert (told[2]["decision"], told[2]["identity"], told[2]["name"]) == ("known", None, None)
        assert end_interrupted(outbox) == 0
    assert b"Zacharias" not in b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
