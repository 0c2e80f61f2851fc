"""Many pictures out of the two portraits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from engines.preprocess import Image


def views(portraits: dict[str, Path], count: int) -> Iterator[Image]:
    """The portraits turned, shrunk, darkened and shifted, in the shape of the detector's first input."""
    random = np.random.default_rng(2)
    images = [cv2.imread(str(path)) for path in portraits.values()]
    for number in range(count):
        image = images[number % 2]
        height, width = image.shape[:2]
        turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(random.uniform(-25, 25)), float(random.uniform(0.5, 0.7)))
        turn[:, 2] += random.uniform(-30, 90), random.uniform(-130, -60)
        seen = cv2.warpAffine(image, turn, (640, 384)).astype(np.float32) * random.uniform(0.5, 1.1)
        yield np.clip(seen[:, ::-1] if number % 3 else seen, 0, 255).astype(np.uint8).copy()
