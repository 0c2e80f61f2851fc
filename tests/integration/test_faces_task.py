"""The task on made clips of the two public-domain portraits, with the real models: names, pseudonyms, life of events, photographs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agent.datatypes import Event, Frame, Image
from agent.outbox import Outbox
from agent.settings import Settings
from agent.vision.erasure import Housekeeping
from agent.vision.face_kit import FaceKit
from agent.vision.gallery import Gallery, Picture
from agent.vision.tasks.faces import FacesConfig, FacesTask
from engines.base import EngineError
from engines.model import FaceEmbedder
from tests.fakes.face_settings import face_settings
from tests.waiting import wait_until

RATE = 12.5
Scene = Callable[[float], list[tuple[str, float, float, float]]]
"""Who (asset name) is where (centre x, y) and how large (pixels of the face) at a time in seconds."""
FACES = {"astronaut": (224, 110, 100), "grace-hopper": (255, 175, 170)}
"""Centre and size of the face in each portrait."""


@pytest.fixture
def settings(tmp_path: Path, models_dir: Path, engines_dir: Path) -> Settings:
    return face_settings(tmp_path, models_dir, engines_dir)


@pytest.fixture
def kit(settings: Settings) -> Iterator[FaceKit]:
    with closing(FaceKit.open(settings)) as kit:
        yield kit


@pytest.fixture
def task(settings: Settings, kit: FaceKit) -> Iterator[FacesTask]:
    with closing(FacesTask(FacesConfig(), "door", settings)) as task:
        yield task


@pytest.fixture(scope="session")
def people(portraits: dict[str, Path]) -> dict[str, Image]:
    """Head and shoulders of each, scaled so that the face is 100 pixels."""
    cuts = {}
    for name, (x, y, size) in FACES.items():
        image = cv2.imread(str(portraits[name]))
        assert image is not None
        cut = image[max(y - size, 0) : y + size, x - size : x + size]
        cuts[name] = cv2.resize(cut, None, fx=100 / size, fy=100 / size)
    return cuts


def picture(people: dict[str, Image], placed: list[tuple[str, float, float, float]]) -> Image:
    """A 640x360 frame."""
    canvas = np.full((360, 640, 3), 80, np.uint8)
    for name, x, y, size in placed:
        cut = cv2.resize(people[name], None, fx=size / 100, fy=size / 100, interpolation=cv2.INTER_AREA)
        left, top = int(x - cut.shape[1] / 2), int(y - cut.shape[0] / 2)
        shown = canvas[max(top, 0) : top + cut.shape[0], max(left, 0) : left + cut.shape[1]]
        shown[:] = cut[max(-top, 0) :, max(-left, 0) :][: shown.shape[0], : shown.shape[1]]
    return canvas


def play(task: FacesTask, people: dict[str, Image], scene: Scene, seconds: float, start: float = 0.0) -> list[Event]:
    events: list[Event] = []
    for index in range(int(seconds * RATE)):
        at = start + index / RATE
        frame = Frame(picture(people, scene(index / RATE)), "door", index, 1.8e9 + at, int(at * 1e9), media_s=at)
        events += task.update(frame, task.infer(frame))
    return events


def ends(events: list[Event]) -> list[dict[str, object]]:
    return [dict(event.data) for event in events if event.data["type"] == "end"]


def test_a_known_and_an_unknown_person_together(
    task: FacesTask, kit: FaceKit, people: dict[str, Image], portraits: dict[str, Path]
) -> None:
    report = kit.enrolment.enrol("Eileen", [portraits["astronaut"].read_bytes()], "public domain")
    assert (report.accepted, report.warnings) == (1, ())
    events = play(task, people, lambda at: [("astronaut", 150 + 40 * at, 180, 90), ("grace-hopper", 480 - 20 * at, 180, 80)], 2.5)
    assert {annotation.label for annotation in task.annotations if annotation.known} == {"Eileen"}
    events += task.flush(1.8e9 + 3, 3, "stopped")
    last = {str(data["track"]): data for data in ends(events)}
    assert sorted(str(data["decision"]) for data in last.values()) == ["known", "unknown"]
    assert {data["reason"] for data in last.values()} == {"stopped"}
    for data in last.values():
        known = data["decision"] == "known"
        assert (data["name"], data["identity"]) == (("Eileen", report.identity.id) if known else (None, None))
        assert (data["cluster"] is None) == known
        life = [event.data["type"] for event in events if event.data["track"] == data["track"]]
        assert life[0] == "new"
        assert life[-1] == "end"
        assert life.count("new") == life.count("end") == 1
        assert data["threshold"] == pytest.approx(kit.point.limit(1), abs=1e-4)
    figures = task.metrics()
    assert figures["faces_total"] >= 60
    assert figures["tracks_total"] == 2
    assert 6 <= figures["embeddings_total"] <= 30, "a face that is known well is not embedded in every frame"


def test_a_stranger_comes_back_under_the_same_pseudonym(task: FacesTask, people: dict[str, Image]) -> None:
    first = play(task, people, lambda at: [("grace-hopper", 200, 180, 90)], 1.0)
    away = play(task, people, lambda at: [], 2.6, start=1.0)
    second = play(task, people, lambda at: [("grace-hopper", 420, 170, 110)], 1.0, start=3.6)
    second += task.flush(1.8e9 + 5, 5, "stream lost")
    [left], [lost] = ends(away), ends(second)
    assert (left["reason"], lost["reason"]) == ("left", "stream lost")
    assert left["track"] != lost["track"]
    assert left["cluster"] == lost["cluster"] is not None
    assert not ends(first)


def test_an_empty_scene_says_nothing(task: FacesTask, people: dict[str, Image]) -> None:
    assert play(task, people, lambda at: [], 1.0) == []
    assert task.flush(0, 0, "stopped") == []


def test_tracks_end_though_no_frame_can_be_processed_any_more(task: FacesTask, people: dict[str, Image]) -> None:
    play(task, people, lambda at: [("grace-hopper", 200, 180, 90)], 1.0)

    def missed(at: float) -> list[Event]:
        return task.missed(Frame(np.zeros((360, 640, 3), np.uint8), "door", 99, 1.8e9 + at, int(at * 1e9), media_s=at))

    assert missed(2.5) == []
    [end] = ends(missed(3.1))
    assert end["reason"] == "stream lost"
    assert missed(3.2) == []


def test_a_gallery_that_fails_is_told_for_as_long_as_it_does_and_logged_each_time(
    task: FacesTask, kit: FaceKit, people: dict[str, Image], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agent.vision.gallery.REFRESH_S", 0.0)
    kit.gallery._next_refresh = 0.0
    with closing(sqlite3.connect(kit.gallery._store.path)) as other:
        for times in (1, 2):
            other.execute("ALTER TABLE clusters RENAME TO elsewhere")
            for start in (1.0, 2.0):
                play(task, people, lambda at: [], 0.4, start=start)
                assert "no such table: clusters" in task.impaired
            assert [record.levelname for record in caplog.records if "cannot be read" in record.message] == ["ERROR"] * times
            other.execute("ALTER TABLE elsewhere RENAME TO clusters")
            play(task, people, lambda at: [], 0.2, start=3.0)
            assert task.impaired == ""
    assert task.metrics()["gallery_errors_total"] >= 8


def test_enrolling_while_a_person_is_in_view_gives_the_name(
    task: FacesTask, kit: FaceKit, people: dict[str, Image], portraits: dict[str, Path]
) -> None:
    before = play(task, people, lambda at: [("grace-hopper", 200, 180, 90)], 1.0)
    assert {event.data["name"] for event in before} == {None}
    identity = kit.enrolment.enrol("Grace", [portraits["grace-hopper"].read_bytes()]).identity
    named = play(task, people, lambda at: [("grace-hopper", 200, 180, 90)], 3.0, start=1.0)
    assert named[-1].data["name"] == "Grace"
    assert named[-1].data["cluster"] is None
    kit.gallery.erase(identity.id)
    erased = play(task, people, lambda at: [("grace-hopper", 200, 180, 90)], 0.5, start=4.0)
    assert [event.data["name"] for event in erased] == [None]


def test_pictures_that_are_enrolled_with_another_embedder_are_read_too(
    kit: FaceKit, settings: Settings, portraits: dict[str, Path]
) -> None:
    with (
        Outbox.open(settings.outbox_dir, "dev", settings.outbox) as outbox,
        closing(Gallery.open(settings.gallery_dir, settings.gallery, "another@0123456789ab", kit.point)) as other,
    ):
        keeper = Housekeeping(settings, outbox, lambda: None)
        identity = other.add("Grace", [Picture(portraits["grace-hopper"].read_bytes(), np.ones(64, np.float32))])
        assert kit.gallery.candidates.ids == ()
        wait_until(lambda: keeper.tick() or kit.gallery.candidates.ids == (identity.id,), 10, "the other embedder's template")
        other.erase(identity.id)
        wait_until(lambda: keeper.tick() or kit.gallery.candidates.ids == (), 10, "the erasure")
        keeper.stop()


def test_every_photograph_stands_alone_and_a_repeat_has_the_same_keys(task: FacesTask, people: dict[str, Image]) -> None:
    image = picture(people, [("astronaut", 150, 180, 90), ("grace-hopper", 480, 180, 90)])
    runs = []
    for index in range(2):
        frame = Frame(image, "door", index, 1.8e9, index, item="a.jpg")
        runs.append(task.update(frame, task.infer(frame)))
    assert [event.data["type"] for event in runs[0]] == ["end", "end"]
    assert len({event.key for event in runs[0]}) == 2
    assert [event.key for event in runs[0]] == [event.key for event in runs[1]]
    assert [event.data for event in runs[0]] == [event.data for event in runs[1]]
    other = Frame(image, "door", 3, 1.8e9, 3, item="b.jpg")
    assert {event.key for event in task.update(other, task.infer(other))}.isdisjoint({event.key for event in runs[0]})
    assert task.flush(0, 0, "left") == []


def test_what_was_opened_is_closed_where_the_rest_cannot_be(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    for kind in (FaceEmbedder, Gallery):

        def close(self: Any, close: Callable[[Any], None] = kind.close) -> None:
            closed.append(type(self).__name__)
            close(self)

        monkeypatch.setattr(kind, "close", close)
    with pytest.raises(EngineError, match="not for face-detection"):
        FaceKit.open(settings, detector="dlib-resnet")
    assert sorted(closed) == ["FaceEmbedder", "Gallery"]


def test_streams_share_the_models(task: FacesTask, kit: FaceKit, settings: Settings) -> None:
    with closing(FacesTask(FacesConfig(), "yard", settings)) as second:
        assert second.engines() == task.engines()
        assert FaceKit.open(settings) is kit
        kit.close()
