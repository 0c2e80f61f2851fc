"""The quality checks of identity enrolment by landmarks and size, with a detector that says what a test wants."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.settings import GallerySettings
from agent.vision.enrolment import Enrolment, EnrolmentError
from agent.vision.gallery import Gallery
from agent.vision.gallery_store import GalleryError
from agent.vision.recognition import OperatingPoint
from engines.results import Detections, Embeddings

pytestmark = pytest.mark.unit

FRONTAL = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)


class Scripted:
    """A detector and embedder that finds the faces it was given: (size, how far the nose is off the middle, in eye distances)."""

    model_id = "scripted@0"

    def __init__(self, *faces: tuple[float, float]) -> None:
        self.faces = faces

    def detect(self, image: np.ndarray) -> Detections:
        boxes = np.array([[0, 0, size, size * 1.2] for size, _ in self.faces], np.float32)
        landmarks = np.stack([FRONTAL * size / 100 for size, _ in self.faces])
        landmarks[:, 2, 0] += [0.4 * size * off for size, off in self.faces]
        return Detections(boxes, np.full(len(boxes), 0.9, np.float32), landmarks)

    def chip(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        return np.asarray(np.random.default_rng(0).integers(0, 255, (150, 150, 3)), np.uint8)

    def embed(self, chips: np.ndarray) -> Embeddings:
        return Embeddings(np.ones((len(chips), 128), np.float32), self.model_id)


def enrol(tmp_path: Path, *faces: tuple[float, float]) -> str:
    """`accepted`, or the reason of the refusal."""
    model = Scripted(*faces)
    gallery = Gallery.open(tmp_path, GallerySettings(), model.model_id, OperatingPoint.of(0.6, 0.55))
    picture = cv2.imencode(".png", np.zeros((200, 200, 3), np.uint8))[1].tobytes()
    try:
        Enrolment(model, model, gallery).enrol("Anna", [picture])
    except EnrolmentError as error:
        return error.refused[0].reason
    finally:
        gallery.close()
    return "accepted"


@pytest.mark.parametrize(
    ("faces", "answer"),
    [
        ([(100.0, 0.0)], "accepted"),
        ([(100.0, 0.2)], "accepted"),
        ([(100.0, 0.5)], "turned-away"),
        ([(100.0, -0.5)], "turned-away"),
        ([(40.0, 0.0)], "too-small"),
        ([(100.0, 0.0), (90.0, 0.0)], "several-faces"),
        ([(50.0, 0.0), (150.0, 0.0)], "accepted"),
    ],
)
def test_quality(tmp_path: Path, faces: list[tuple[float, float]], answer: str) -> None:
    assert enrol(tmp_path, *faces) == answer


def test_a_gallery_of_another_embedder_is_refused(tmp_path: Path) -> None:
    gallery = Gallery.open(tmp_path, GallerySettings(), "other@1", OperatingPoint.of(0.6, 0.55))
    with pytest.raises(GalleryError, match=r"open for other@1, not for the embedder scripted@0"):
        Enrolment(Scripted(), Scripted(), gallery)
    gallery.close()
