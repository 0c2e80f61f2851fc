"""What decoders of detectors share: threshold first, decode the few cells that pass, then suppress overlaps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from engines.results import F32, Detections

MOST = 1000
"""Cells that are decoded at most, best first; a picture holds fewer faces."""


class DecoderParams(BaseModel, ABC):
    """The base of decoders' parameters in a card."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    @abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Names of the model's outputs that the decoder reads."""


class DetectorParams(DecoderParams):
    """`iou`: boxes that overlap a better one more than this are dropped."""

    iou: float = Field(0.3, gt=0, lt=1)


class DetectionDecoder(ABC):
    """Raw outputs (batch of one) of a detector whose input was (height, width) pixels, to detections in input pixels."""

    Params: ClassVar[type[DetectorParams]]
    task: ClassVar[str] = "face-detection"

    def __init__(self, params: Any, height: int, width: int) -> None:
        self.params = params
        self.height = height
        self.width = width

    @property
    def picked(self) -> tuple[str, ...]:
        """Outputs of which only the cells of faces are looked at."""
        return ()

    def decode(self, outputs: Mapping[str, NDArray[Any]], threshold: float) -> Detections:
        """All objects with a score of at least `threshold`, best first."""
        scores = self.scores(outputs)
        cells = np.flatnonzero(scores >= threshold)
        if not len(cells):
            return Detections.empty()
        cells = cells[np.argsort(-scores[cells], kind="stable")][:MOST]
        boxes = self.boxes(outputs, cells)
        kept = suppress(boxes, self.params.iou)
        cells, boxes = cells[kept], boxes[kept]
        return Detections(boxes, scores[cells], self.landmarks(outputs, cells, boxes))

    @abstractmethod
    def scores(self, outputs: Mapping[str, NDArray[Any]]) -> F32:
        """The score of every cell, flat, in 0..1."""

    @abstractmethod
    def boxes(self, outputs: Mapping[str, NDArray[Any]], cells: NDArray[np.intp]) -> F32:
        """Boxes (N, 4) of some cells, in input pixels."""

    @abstractmethod
    def landmarks(self, outputs: Mapping[str, NDArray[Any]], cells: NDArray[np.intp], boxes: F32) -> F32:
        """Landmarks (N, 5, 2) of some cells, whose boxes these are, in input pixels."""


def suppress(boxes: F32, iou: float) -> NDArray[np.intp]:
    """Greedy non-maximum suppression: indices of the boxes (N, 4), best first, that overlap no better kept one by more than `iou`.

    A box that is not finite overlaps nothing and stays, so that it is seen.
    """
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1) * (y2 - y1)
    kept: list[np.intp] = []
    left = np.arange(len(boxes))
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        width = np.minimum(x2[left], x2[best]) - np.maximum(x1[left], x1[best])
        height = np.minimum(y2[left], y2[best]) - np.maximum(y1[left], y1[best])
        shared = width.clip(0) * height.clip(0)
        left = left[~(shared > iou * (areas[left] + areas[best] - shared))]
    return np.array(kept, np.intp)


def overlaps(first: F32, second: F32) -> F32:
    """Intersection over union of every box of `first` (N, 4) with every one of `second` (M, 4): (N, M)."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    opposite = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(opposite - corner, 0, None).prod(2)
    area_first = (first[:, 2:] - first[:, :2]).prod(1)
    area_second = (second[:, 2:] - second[:, :2]).prod(1)
    return np.asarray(shared / np.maximum(area_first[:, None] + area_second[None] - shared, 1e-9), np.float32)
