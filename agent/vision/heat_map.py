"""Where in a picture a classifier saw what it answered."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.card import ModelInput
from engines.preprocess import opencv

LONGEST = 256
"""Pixels of the longer side: the maps are much coarser."""


def activation(maps: NDArray[np.float32], place: int) -> NDArray[np.float32]:
    """(h, w): what of a picture's class activation maps (classes, h, w) speaks for class `place`.

    A class's map less the mean over all classes, because only differences of logits move the scores (Zhou et al., CVPR 2016).
    """
    return np.asarray(maps[place] - maps.mean(0), np.float32)


def heat_map(evidence: NDArray[np.float32], feed: ModelInput, shape: tuple[int, int]) -> bytes:
    """A PNG of 8-bit grey, to be stretched over a picture of `shape` (rows, columns): 255 where `evidence`, (h, w) over the model's whole
    input, is highest, 0 where it is not positive or the model did not look."""
    evidence = np.maximum(evidence, 0.0)
    strongest = float(evidence.max())
    grid = evidence / strongest if strongest > 0 else evidence
    rows, columns = shape
    scale = LONGEST / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    left, top, right, bottom = _seen(feed, shape)
    across, down = (right - left) / grid.shape[1] * scale, (bottom - top) / grid.shape[0] * scale
    to_heat = np.array([[across, 0, left * scale + across / 2 - 0.5], [0, down, top * scale + down / 2 - 0.5]])
    cv2 = opencv()
    spread = cv2.warpAffine(grid.astype(np.float32), to_heat, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    hot = np.zeros((size[1], size[0]), np.uint8)
    inside = np.s_[max(round(top * scale), 0) : round(bottom * scale), max(round(left * scale), 0) : round(right * scale)]
    hot[inside] = np.rint(np.clip(spread, 0, 1)[inside] * 255)
    _, data = cv2.imencode(".png", hot)
    return bytes(data)


def _seen(feed: ModelInput, shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """What the whole of the model's input covers, in pixels of the picture: left, top, right, bottom; it may reach beyond the picture."""
    rows, columns = shape
    width, height = feed.sizes[0]
    if feed.resize == "letterbox":
        scale = min(width / columns, height / rows, 1.0)
        return 0.0, 0.0, width / scale, height / scale
    if feed.resize == "crop":
        scale = max(width / columns, height / rows)
        across, down = width / scale, height / scale
        return (columns - across) / 2, (rows - down) / 2, (columns + across) / 2, (rows + down) / 2
    return 0.0, 0.0, float(columns), float(rows)
