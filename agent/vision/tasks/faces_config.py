"""Settings of the task `faces`, apart from it: who only reads the settings loads neither numpy nor an engine's code."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from agent.config import Config

if TYPE_CHECKING:
    from agent.vision.recognition import OperatingPoint
    from engines.results import Detections

DETECTOR = "centerface"
EMBEDDER = "dlib-resnet"
LEAST_EYES = 5.0
"""Pixels between the eyes; a full profile has none, and cannot be aligned."""


class FacesConfig(Config):
    """Settings of the task `faces`."""

    type: Literal["faces"] = "faces"
    detector: str = Field(DETECTOR, description="A model card for face detection; `almena models` lists them.")
    embedder: str = Field(EMBEDDER, description="A model card for face embedding.")
    score: float | None = Field(None, gt=0, lt=1, description="Least score of a face; default: the detector card's.")
    identify: float | None = Field(None, gt=0, description="Largest distance to an identity; default: by the card and their number.")
    min_face: int = Field(32, ge=16, description="Smaller faces (pixels, shorter side) are followed but not recognised.")
    confirm_hits: int = Field(3, ge=1, description="A track is told once it was seen so many times.")
    keep_lost_s: float = Field(2.0, gt=0, le=60, description="A track ends when it was not seen for so long.")
    recheck_s: float = Field(2.0, gt=0, description="A recognised face is looked at again after so long.")
    update_s: float = Field(10.0, ge=1, description="Least time between updates that tell of a better view only.")

    def point(self, usual: OperatingPoint) -> OperatingPoint:
        """The embedder's operating point with what is set here."""
        return usual if self.identify is None else replace(usual, identify=self.identify, slack=0.0)

    def recognisable(self, faces: Detections, score: float) -> list[int]:
        """Indices of the faces that are sure and large enough to be recognised; `score`: the least."""
        sure: list[int] = []
        for index, (box, marks, found) in enumerate(
            zip(faces.boxes.tolist(), faces.landmarks.tolist(), faces.scores.tolist(), strict=True)
        ):
            side = min(box[2] - box[0], box[3] - box[1])
            if found >= score and side >= self.min_face and math.dist(marks[0], marks[1]) >= LEAST_EYES:
                sure.append(index)
        return sure
