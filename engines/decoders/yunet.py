"""YuNet (Wu, Peng, Yu, "YuNet: a tiny millisecond-level face detector", 2023), decoded as OpenCV's FaceDetectorYN does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.decoders.base import DetectionDecoder, DetectorParams
from engines.results import F32


class YuNetParams(DetectorParams):
    """For each stride S the outputs cls_S (1, A, 1), obj_S (1, A, 1), bbox_S (1, A, 4) and kps_S (1, A, 10)."""

    strides: tuple[int, ...] = (8, 16, 32)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Four of each stride."""
        return tuple(f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in self.strides)


class YuNetDecoder(DetectionDecoder):
    """One anchor a cell, at the cell's top left corner."""

    Params = YuNetParams

    def __init__(self, params: Any, height: int, width: int) -> None:
        super().__init__(params, height, width)
        corners, strides = [], []
        for stride in params.strides:
            rows, columns = np.indices((height // stride, width // stride), np.float32)
            corners.append(np.stack([columns.ravel(), rows.ravel()], 1))
            strides.append(np.full((rows.size, 1), stride, np.float32))
        self._corners, self._strides = np.concatenate(corners), np.concatenate(strides)

    def scores(self, outputs: Mapping[str, NDArray[Any]]) -> F32:
        """The geometric mean of class score and objectness."""
        return np.sqrt(np.clip(self._all(outputs, "cls"), 0, 1) * np.clip(self._all(outputs, "obj"), 0, 1)).ravel()

    def boxes(self, outputs: Mapping[str, NDArray[Any]], cells: NDArray[np.intp]) -> F32:
        """Centre (corner + shift)·S, size exp(s)·S."""
        raw, corners, strides = self._all(outputs, "bbox")[cells], self._corners[cells], self._strides[cells]
        centre, half = (corners + raw[:, :2]) * strides, np.exp(raw[:, 2:]) * strides / 2
        return np.concatenate([centre - half, centre + half], 1)

    def landmarks(self, outputs: Mapping[str, NDArray[Any]], cells: NDArray[np.intp], boxes: F32) -> F32:
        """(corner + shift)·S."""
        points = self._all(outputs, "kps")[cells].reshape(-1, 5, 2)
        return np.asarray((points + self._corners[cells][:, None]) * self._strides[cells][:, None], np.float32)

    def _all(self, outputs: Mapping[str, NDArray[Any]], kind: str) -> F32:
        tensors = [outputs[f"{kind}_{stride}"] for stride in self.params.strides]
        return np.concatenate([tensor.reshape(-1, tensor.shape[-1]) for tensor in tensors]).astype(np.float32)
