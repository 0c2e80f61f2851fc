"""CenterFace (Xu et al., "CenterFace: joint face detection and alignment using face as point", 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.decoders.base import DetectionDecoder, DetectorParams
from engines.results import F32


class CenterFaceParams(DetectorParams):
    """Names of the outputs: heat map (1, 1, R, C), log scale (1, 2, R, C), offset (1, 2, R, C), landmarks (1, 10, R, C)."""

    heatmap: str
    scale: str
    offset: str
    landmarks: str
    stride: int = 4

    @property
    def outputs(self) -> tuple[str, ...]:
        """The four maps."""
        return self.heatmap, self.scale, self.offset, self.landmarks


class CenterFaceDecoder(DetectionDecoder):
    """Every cell of a quarter-size map may be the centre of a face."""

    Params = CenterFaceParams

    @property
    def picked(self) -> tuple[str, ...]:
        """All but the heat map."""
        return self.params.scale, self.params.offset, self.params.landmarks

    def scores(self, outputs: Mapping[str, NDArray[Any]]) -> F32:
        """The heat map, which is a sigmoid already."""
        return np.asarray(outputs[self.params.heatmap].ravel(), np.float32)

    def boxes(self, outputs: Mapping[str, NDArray[Any]], cells: NDArray[np.intp]) -> F32:
        """Size 4·exp(scale); centre 4·(cell + offset + 0.5); both outputs are y before x."""
        stride = np.float32(self.params.stride)
        place = np.array(np.divmod(cells, self.width // self.params.stride), np.float32)
        size = stride * np.exp(self._at(outputs[self.params.scale], cells))
        corner = stride * (self._at(outputs[self.params.offset], cells) + place + np.float32(0.5)) - size / 2
        return np.asarray(np.concatenate([corner[::-1], (corner + size)[::-1]]).T, np.float32)

    def landmarks(self, outputs: Mapping[str, NDArray[Any]], cells: NDArray[np.intp], boxes: F32) -> F32:
        """Relative to the box, y before x."""
        marks = self._at(outputs[self.params.landmarks], cells).T.reshape(-1, 5, 2)[..., ::-1]
        return np.asarray(marks * (boxes[:, None, 2:] - boxes[:, None, :2]) + boxes[:, None, :2], np.float32)

    @staticmethod
    def _at(tensor: NDArray[Any], cells: NDArray[np.intp]) -> F32:
        """(1, K, R, C) at flat cells: (K, N)."""
        return np.asarray(tensor.reshape(tensor.shape[1], -1).take(cells, 1), np.float32)
