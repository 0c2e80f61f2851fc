"""Streams that cannot start, settings that change, tracks that a crash left open."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.datatypes import Annotation, Event
from agent.errors import AlmenaError, SettingsError, UnknownError
from agent.outbox import Outbox, OutboxFullError
from agent.registry import SOURCES, TASKS
from agent.remote import Wish, keep
from agent.settings import OutboxSettings, TelemetrySettings
from agent.vision import service
from agent.vision.face_kit import open_gallery
from agent.vision.service import Vision
from tests.fakes.face_events import of_track
from tests.fakes.plugins import Counting, told
from tests.fakes.stream_plugins import TaskConfig, TestCamera, TestTask, cameras, problems, tasks
from tests.waiting import wait_until

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registered as anybody would register theirs."""
    monkeypatch.setitem(SOURCES, "test-camera", "tests.fakes.stream_plugins:TestCamera")
    monkeypatch.setitem(TASKS, "test-task", "tests.fakes.stream_plugins:TestTask")
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


def state_of(vision: Vision, stream: str) -> str:
    return next(health.state for health in vision.streams() if health.stream == stream)


def runs(vision: Vision) -> None:
    """Let a frame through."""
    wait_until(lambda: vision.metrics(), 10, "the pipeline to start")
    cameras[-1].give(1)
    wait_until(lambda: state(vision)[0] == "running", 10, "the stream to run")


def test_settings_by_which_nothing_is_looked_at_are_told(
    path: Path, started: Callable[[], Vision], caplog: pytest.LogCaptureFixture
) -> None:
    vision = started()
    assert "there are no streams" not in caplog.text
    path.write_text("state_dir: state\n")
    vision.reload()
    assert "there are no streams" in caplog.text


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
    wait_until(lambda: len(told(vision.outbox.history(after_seq=0), "stream")) > 1, 10, "both events to be stored")
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
    first = wait_until(lambda: told(vision.outbox.history(after_seq=0), "stream"), 10, "the failure to be stored")[0]
    assert first["detail"] == "ImportError: libfoo.so.1: cannot open"


def test_a_stop_while_models_load_waits_and_frees_after_the_streams_that_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STOP_TIMEOUT_S", 60)
    loading, go_on = threading.Event(), threading.Event()
    slow: list[TestTask] = []

    def init(self: TestTask, _config: TaskConfig, stream: str, *_: Any) -> None:
        Counting.__init__(self)
        if stream == "cam":
            slow.append(self)
            loading.set()
            assert go_on.wait(60)

    monkeypatch.setattr(TestTask, "__init__", init)
    settings = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**settings, "streams": [*settings["streams"], {**settings["streams"][0], "name": "yard"}]}))
    vision = Vision(path)
    vision.start()
    assert loading.wait(60)
    wait_until(lambda: "yard" in vision.metrics(), 10, "the other stream to start")
    stopper = threading.Thread(target=vision.stop)
    stopper.start()
    try:
        wait_until(lambda: vision._stream("yard").ended, 10, "the end of the stream that runs")
        assert stopper.is_alive()
    finally:
        go_on.set()
        stopper.join(60)
    assert not stopper.is_alive()
    assert slow[0].closed == 1


def test_streams_that_do_not_answer_are_left_behind_all_within_the_time_of_one(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`almena run` kills what takes longer than 8 s to stop."""
    monkeypatch.setattr(service, "STOP_TIMEOUT_S", 2.0)
    go_on, hanging = threading.Event(), threading.Barrier(17)
    slow: list[TestTask] = []

    def init(self: TestTask, _config: TaskConfig, stream: str, *_: Any) -> None:
        Counting.__init__(self)
        if stream == "slow":
            slow.append(self)
            hanging.wait(60)
            assert go_on.wait(60)

    def read(_: TestCamera) -> None:
        hanging.wait(60)
        assert go_on.wait(60)

    monkeypatch.setattr(TestTask, "__init__", init)
    monkeypatch.setattr(TestCamera, "read", read)
    settings = yaml.safe_load(path.read_text())
    streams = [{**settings["streams"][0], "name": name} for name in ("slow", *(f"cam{number}" for number in range(15)))]
    path.write_text(yaml.safe_dump({**settings, "streams": streams}))
    vision = Vision(path)
    vision.start()
    try:
        hanging.wait(60)
        loader = vision._stream("slow")._thread
        started = time.monotonic()
        vision.stop()
        assert time.monotonic() - started < 25, "sixteen of them, one after the other, take 32"
        assert (caplog.text.count("the source does not answer"), caplog.text.count("still being loaded")) == (15, 1)
    finally:
        go_on.set()
    loader.join(60)
    assert slow[0].closed == 1


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
    tasks[0].trouble = lambda frame: release.wait(90) and None
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
    assert vision.restart_needed == ("mqtt",)
    assert vision.settings == before.model_copy(update={"telemetry": TelemetrySettings(period_s=7)})
    write(path, pace=2.0)
    assert vision.reload() is True
    assert vision.restart_needed == ()
    runs(vision)
    assert [camera.config.pace for camera in cameras] == [1.0, 2.0]
    assert tasks[0].closed == 1
    assert told(vision.outbox.history(after_seq=0), "end") == [{"reason": "stopped"}]


def wish(pace: float, *more: str, **sections: Any) -> Wish:
    """`cam` at a pace, and more streams."""
    streams = [{"name": name, "source": {"type": "test-camera", "pace": pace}} for name in ("cam", *more)]
    return Wish(3, {"streams": streams, **sections})


def test_what_the_hub_wants_holds_until_a_reload_or_for_ever_where_it_is_kept(path: Path, started: Callable[[], Vision]) -> None:
    vision = started()
    runs(vision)
    tried = wish(1.0, "yard", outbox={"history_age_s": 9})
    assert vision.try_out(tried) is True
    assert (set(vision._streams), vision.in_force()["wish"]) == ({"cam", "yard"}, tried.mark)
    assert vision.reload() is True
    assert (set(vision._streams), vision.in_force()["wish"]) == ({"cam"}, "")
    keep(vision.settings.state_dir, tried)
    assert vision.reload() is True
    assert (set(vision._streams), vision.in_force()["revision"]) == ({"cam", "yard"}, 3)


def test_streams_that_are_the_same_go_on_and_one_is_restarted_alone(path: Path, started: Callable[[], Vision]) -> None:
    vision = started()
    runs(vision)
    cam = vision._streams["cam"]
    vision.try_out(Wish(1, {"streams": [*yaml.safe_load(path.read_text())["streams"], *wish(1.0, "yard").state["streams"][1:]]}))
    assert vision._streams["cam"] is cam
    assert (state_of(vision, "cam"), tasks[0].closed) == ("running", 0)
    preview = vision.preview("cam")
    vision.restart("cam")
    assert (vision.preview("cam"), tasks[0].closed) == (preview, 1)
    wait_until(lambda: "cam" in vision.metrics(), 10, "the stream to start again")
    with pytest.raises(UnknownError):
        vision.restart("attic")


def test_a_wish_that_is_wrong_disturbs_nothing(path: Path, started: Callable[[], Vision]) -> None:
    vision = started()
    runs(vision)
    for wrong in ({"streams": 3}, {"mqtt": {}}, {"serving": {"models": [{"name": "x", "card": "no-such-card"}]}}):
        with pytest.raises(SettingsError):
            vision.try_out(Wish(1, {**wish(2.0).state, **wrong}))
    assert (len(cameras), state(vision)[0], vision.in_force()["wish"]) == (1, "running", "")


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
    def refuse(*_: object) -> int:
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


def test_interrupted_tracks_end_when_they_were_last_seen(started: Callable[[], Vision], path: Path, tmp_path: Path) -> None:
    vision = started()
    wait_until(lambda: state(vision)[0] == "running" or bool(cameras and tasks), 10, "the stream")
    tasks[0].annotations = (Annotation((0, 0, 9, 9), "", 0.9, track="a"),)
    vision.outbox.append("event", [of_track("a", "new", 1000.0)])
    note, copy = path.parent / "state" / "run" / "seen.json", tmp_path / "killed"

    def given_and_noted() -> bool:
        cameras[0].give(1)
        return note.exists()

    wait_until(given_and_noted, 10, "the sighting")
    copy.mkdir()
    with Outbox.open(copy / "state" / "outbox", vision.settings.device.name, OutboxSettings()) as outbox:
        outbox.append("event", [of_track("a", "new", 1000.0), of_track("b", "new", 1001.0)])
    shutil.copytree(note.parent, copy / "state" / "run", ignore=lambda *_: ["vision.sock"])
    seen_at = json.loads((copy / "state" / "run" / "seen.json").read_text())["cam"]["a"]
    again = Vision(Path(shutil.copy(path, copy)))
    again.start()
    again.stop()
    with Outbox.open(copy / "state" / "outbox", again.settings.device.name, OutboxSettings()) as outbox:
        ends = {one["data"]["track"]: one["data"]["ended_at"] for one in outbox.history(kind="face") if one["data"]["type"] == "end"}
    assert ends == {"a": seen_at, "b": 1001.0}
    assert seen_at > 1000.0
