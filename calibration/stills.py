"""Faces in single photographs, where a second look costs nothing that anybody waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.results import Detections

Image = NDArray[np.uint8]
LARGE = 1920
"""Side in pixels to which a photograph with room around it is shrunk for the second look: still more than the detectors' inputs."""
SMALL = 320
"""The same for the third look: a face that fills the photograph is too large for the detector's own input."""
BORDER = 0.25
"""Of the longer side, added around: a face that is cut off by the edge is found more easily with room around it."""


class Detector(Protocol):
    """What finds faces."""

    def detect(self, image: Image) -> Detections:
        """Faces of an (H, W, 3) uint8 BGR image, best score first."""
        ...


class AnyScoreDetector(Protocol):
    """What finds faces from any score on."""

    def detect(self, image: Image, threshold: float, still: bool) -> Detections:
        """Faces of at least that score, best score first; `still`: others of any shape may follow."""
        ...


@dataclass(frozen=True, slots=True)
class AtScore:
    """A detector that finds the faces of at least the score `least`."""

    detector: AnyScoreDetector
    least: float

    def detect(self, image: Image) -> Detections:
        """As the detector's own."""
        return self.detector.detect(image, self.least, still=True)


def find_faces(detector: Detector, image: Image) -> Detections:
    """Faces of a photograph of any size, best score first.

    Photographs without a face at first sight are looked at again with room around them, twice: large and small.
    """
    found = detector.detect(image)
    if len(found):
        return found
    for side in (LARGE, SMALL):
        scale = min(1.0, side / ((1 + 2 * BORDER) * max(image.shape[:2])))
        shrunk = _scaled(image, scale)
        border = round(BORDER * max(shrunk.shape[:2]))
        found = detector.detect(np.pad(shrunk, ((border, border), (border, border), (0, 0)), mode="edge"))
        if len(found):
            return Detections((found.boxes - border) / scale, found.scores, (found.landmarks - border) / scale)
    return found


def largest(faces: Detections) -> int:
    """The index of the face with the largest area. Raises ValueError without faces."""
    sides = faces.boxes[:, 2:] - faces.boxes[:, :2]
    return int(np.argmax(sides[:, 0] * sides[:, 1]))


def _scaled(image: Image, scale: float) -> Image:
    import cv2

    if scale == 1.0:
        return image
    size = max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0]))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
