"""Tracks of the sample clip's crossing, and the second look at a face that comes nearer, with the real models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.datatypes import Event, Frame, Image
from agent.sample_clip import HEIGHT, RATE, SCRIPT, WIDTH, Walk, frames
from agent.settings import Settings
from agent.vision.face_kit import FaceKit
from agent.vision.tasks.faces import FacesConfig, FacesTask
from tests.fakes.face_settings import face_settings

TOGETHER = tuple(replace(walk, times=tuple(time - 20 for time in walk.times)) for walk in SCRIPT[2:])
"""Both walk in from two sides, cross and leave; then the known one comes back."""
FACES = {"known": (224, 110), "unknown": (255, 175)}
"""The centre of the face in each portrait."""


@pytest.fixture
def settings(tmp_path: Path, models_dir: Path, engines_dir: Path) -> Settings:
    return face_settings(tmp_path, models_dir, engines_dir)


@pytest.fixture
def kit(settings: Settings, portraits: dict[str, Path]) -> Iterator[FaceKit]:
    """With the known person enrolled."""
    with closing(FaceKit.open(settings)) as kit:
        kit.enrolment.enrol("Eileen", [portraits["astronaut"].read_bytes()])
        yield kit


@pytest.fixture(scope="module")
def people(portraits: dict[str, Path]) -> dict[str, Image]:
    pictures = {"known": cv2.imread(str(portraits["astronaut"])), "unknown": cv2.imread(str(portraits["grace-hopper"]))}
    return {who: np.asarray(picture, np.uint8) for who, picture in pictures.items()}


def shown(task: FacesTask, image: Image, number: int, at: float) -> list[Event]:
    frame = Frame(image, "door", number, 1.8e9 + at, int(at * 1e9), media_s=at)
    return task.update(frame, task.infer(frame))


def place(walk: Walk, portrait: Image, at: float) -> tuple[float, float, float]:
    """Where the face is in the clip, centre x and y, and its scale."""
    x, size = (float(np.interp(at, walk.times, values)) for values in (walk.x, walk.size))
    scale = size * HEIGHT * 0.95 / portrait.shape[0]
    face_x, face_y = FACES[walk.who]
    sway = 3 * np.sin(2 * np.pi * 1.6 * at)
    return x * WIDTH + sway + (face_x - portrait.shape[1] / 2) * scale, HEIGHT - (portrait.shape[0] - face_y) * scale, scale


def test_crossing_keeps_one_track_per_person_and_visit(kit: FaceKit, settings: Settings, people: dict[str, Image]) -> None:
    tracks: dict[int, set[str]] = defaultdict(set)
    sides: set[bool] = set()
    events: list[Event] = []
    with closing(FacesTask(FacesConfig(), "door", settings)) as task:
        for number, image in enumerate(frames(people["known"], people["unknown"], TOGETHER)):
            if number % 3:
                continue
            at = number / RATE
            events += shown(task, image, number, at)
            faces = {
                visit: place(walk, people[walk.who], at) for visit, walk in enumerate(TOGETHER) if walk.times[0] <= at <= walk.times[-1]
            }
            centres = [x for x, _, _ in faces.values()]
            if len(centres) == 2:
                sides.add(centres[0] < centres[1])
                if abs(centres[0] - centres[1]) < 100:
                    continue
            for annotation in task.annotations:
                x1, y1, x2, y2 = annotation.box
                for visit, (x, y, _) in faces.items():
                    if x1 < x < x2 and y1 < y < y2:
                        tracks[visit].add(annotation.track)
        events += task.flush(1.8e9 + 20, 0, "stopped")
    assert sides == {True, False}, "the two did not cross"
    assert [len(tracks[visit]) for visit in range(3)] == [1, 1, 1]
    assert len(set.union(*tracks.values())) == 3
    ended = {event.data["track"]: event.data["name"] for event in events if event.data["type"] == "end"}
    assert ended == {next(iter(tracks[0])): "Eileen", next(iter(tracks[1])): None, next(iter(tracks[2])): "Eileen"}


def nearer(people: dict[str, Image], size: float) -> Image:
    """The known person in the middle; `size`: of the face, in pixels."""
    x, y = FACES["known"]
    cut = people["known"][0 : y + 100, x - 100 : x + 100]
    cut = np.asarray(cv2.resize(cut, None, fx=size / 100, fy=size / 100, interpolation=cv2.INTER_AREA), np.uint8)
    canvas = np.full((360, 640, 3), 80, np.uint8)
    top, left = 180 - cut.shape[0] // 2, 320 - cut.shape[1] // 2
    canvas[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return canvas


def test_a_clearly_better_view_is_looked_at_again_and_told(kit: FaceKit, settings: Settings, people: dict[str, Image]) -> None:
    with closing(FacesTask(FacesConfig(recheck_s=600, update_s=3), "door", settings)) as task:

        def play(sizes: list[float], start: float) -> tuple[list[Event], int]:
            before = task.metrics()["embeddings_total"]
            events = [event for n, size in enumerate(sizes) for event in shown(task, nearer(people, size), n, start + n * 0.1)]
            return events, int(task.metrics()["embeddings_total"] - before)

        far, looks = play([45.0] * 120, 0.0)
        assert looks >= 20
        assert far[-1].data["name"] == "Eileen"
        same, looks = play([45.0] * 40, 12.0)
        assert (same, looks) == ([], 0), "it is known well, and the view no better"
        near, looks = play([45.0 + 2.0 * n for n in range(30)], 16.0)
        assert looks >= 2
        [update] = [event for event in near if event.data["type"] == "update"]
        assert (update.data["name"], update.data["track"]) == ("Eileen", far[-1].data["track"])
        assert update.data["distance"] < far[-1].data["distance"]
