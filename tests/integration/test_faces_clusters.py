"""One pseudonym for an unknown person over visits and restarts, on the sample clip, with the real models."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import cv2
import pytest

from agent.datatypes import Event, Frame, Image
from agent.sample_clip import RATE, frames
from agent.settings import Settings
from agent.vision.face_kit import FaceKit
from agent.vision.tasks.faces import FacesConfig, FacesTask
from tests.fakes.face_settings import face_settings

VISITS = ((11, 21), (21, 33))
"""Seconds of the clip in which the unknown person comes from beyond the edge, walks about, and leaves."""
STEP = 5
"""Every fifth frame, five a second."""


@pytest.fixture(scope="session")
def visits(portraits: dict[str, Path]) -> list[list[tuple[float, Image]]]:
    """Times and frames of both visits."""
    known, unknown = (cv2.imread(str(portraits[name])) for name in ("astronaut", "grace-hopper"))
    assert known is not None
    assert unknown is not None
    timed = [(number / RATE, image) for number, image in enumerate(frames(known, unknown)) if number % STEP == 0]
    return [[(at, image) for at, image in timed if first <= at < last] for first, last in VISITS]


def watch(settings: Settings, visit: list[tuple[float, Image]]) -> list[Event]:
    """Events of a task that sees one visit and is closed."""
    with closing(FacesTask(FacesConfig(), "door", settings)) as task:
        events: list[Event] = []
        for number, (at, image) in enumerate(visit):
            frame = Frame(image, "door", number, 1.8e9 + at, int(at * 1e9), media_s=at)
            events += task.update(frame, task.infer(frame))
        return events + task.flush(1.8e9 + 40, 40, "stopped")


def test_one_pseudonym_over_visits_and_restarts(
    visits: list[list[tuple[float, Image]]], portraits: dict[str, Path], tmp_path: Path, models_dir: Path, engines_dir: Path
) -> None:
    settings = face_settings(tmp_path, models_dir, engines_dir)
    with closing(FaceKit.open(settings)) as kit:
        kit.enrolment.enrol("Eileen", [portraits["astronaut"].read_bytes()])
    events = [watch(settings, visit) for visit in visits]
    for of_visit in events:
        told = [event.data for event in of_visit if event.data["decision"] == "unknown"]
        assert told[-1]["type"] == "end"
        assert told[-1]["name"] is None
    clusters = {event.data["cluster"] for of_visit in events for event in of_visit if event.data["decision"] == "unknown"}
    assert len(clusters) == 1, "the face that is cut off by the picture's edge must not become another person"
    assert None not in clusters
    with closing(FaceKit.open(settings)) as kit:
        assert [(cluster.id, cluster.sightings) for cluster in kit.gallery.clusters.all()] == [(clusters.pop(), 2)]
