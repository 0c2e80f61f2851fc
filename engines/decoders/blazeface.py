"""BlazeFace (Bazarevsky et al., "BlazeFace: sub-millisecond neural face detection on mobile GPUs", 2019).

Anchors and decoding as in MediaPipe's graph files face_detection_short_range and face_detection_full_range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.decoders.base import DetectionDecoder, DetectorParams
from engines.results import F32

CLIP = 100.0
MOUTH_HALF_WIDTH = 0.445
"""Half the distance of the mouth corners over that of the eyes, in dlib's mean face shape."""


class BlazeFaceParams(DetectorParams):
    """Names of the outputs: regressors (1, A, 16) and logits (1, A, 1); `layers`: the stride and the anchors per cell of each layer."""

    regressors: str
    logits: str
    layers: tuple[tuple[int, int], ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Regressors and logits."""
        return self.regressors, self.logits


class BlazeFaceDecoder(DetectionDecoder):
    """Every anchor is the centre of a cell; its 16 numbers are pixels: centre, size and six points relative to it.

    The model gives the middle of the mouth and no corners: these are set beside it, along the line of the eyes.
    """

    Params = BlazeFaceParams

    def __init__(self, params: Any, height: int, width: int) -> None:
        super().__init__(params, height, width)
        self._anchors = np.concatenate([self._layer(stride, count) for stride, count in params.layers])

    def _layer(self, stride: int, count: int) -> F32:
        rows, columns = np.indices((self.height // stride, self.width // stride), np.float32)
        centres = (np.stack([columns.ravel(), rows.ravel()], 1) + np.float32(0.5)) * np.float32(stride)
        return np.repeat(centres, count, 0)

    def scores(self, outputs: Mapping[str, NDArray[Any]]) -> F32:
        """Sigmoid of the logits, clipped at ±100."""
        logits = np.clip(outputs[self.params.logits].ravel(), -CLIP, CLIP)
        return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))), np.float32)

    def boxes(self, outputs: Mapping[str, NDArray[Any]], cells: NDArray[np.intp]) -> F32:
        """Centre and size."""
        raw = self._raw(outputs, cells)
        centre, half = raw[:, 0] + self._anchors[cells], raw[:, 1] / 2
        return np.concatenate([centre - half, centre + half], 1)

    def landmarks(self, outputs: Mapping[str, NDArray[Any]], cells: NDArray[np.intp], boxes: F32) -> F32:
        """Points of the model: image-left eye, image-right eye, nose tip, mouth, two ears (left out)."""
        raw, anchors = self._raw(outputs, cells), self._anchors[cells]
        left, right, nose, mouth = (raw[:, 2 + index] + anchors for index in range(4))
        aside = (right - left) * np.float32(MOUTH_HALF_WIDTH)
        return np.stack([left, right, nose, mouth - aside, mouth + aside], 1)

    def _raw(self, outputs: Mapping[str, NDArray[Any]], cells: NDArray[np.intp]) -> F32:
        """(N, 8, 2): x, y."""
        return np.asarray(outputs[self.params.regressors].reshape(-1, 8, 2)[cells], np.float32)
