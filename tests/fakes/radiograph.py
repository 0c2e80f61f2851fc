"""A chest as the code draws it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def chest(seed: int = 0) -> NDArray[np.uint8]:
    """(320, 300): two dark lungs, a bright middle, shoulders and a diaphragm, a little different with each seed."""
    random = np.random.default_rng(seed)
    canvas = np.full((320, 300), 150.0, np.float32)
    canvas[:, :25] = canvas[:, 275:] = 60
    for middle in (95, 205):
        place = int(middle + random.integers(-8, 9)), int(160 + random.integers(-10, 11))
        cv2.ellipse(canvas, place, (int(random.integers(42, 52)), int(random.integers(95, 115))), 0, 0, 360, 70.0, -1)
    cv2.rectangle(canvas, (138, 0), (162, 320), 210.0, -1)
    cv2.ellipse(canvas, (170, 210), (45, 55), 30, 0, 360, 200.0, -1)
    canvas[275:] = 215
    return np.clip(cv2.GaussianBlur(canvas, (0, 0), 9) + random.normal(0, 4, canvas.shape), 0, 255).astype(np.uint8)
