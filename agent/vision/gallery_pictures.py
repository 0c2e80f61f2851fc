"""Pictures of enrolled people, cut down to the face before they are kept."""

from __future__ import annotations

import numpy as np

from agent.datatypes import Image

KEPT_SIDE = 512
"""The longer side in pixels of a kept picture."""
SURROUNDINGS = 0.8
"""Face sizes kept on each side, so that another detector can find the face again."""


def keepsake(image: Image, box: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bytes:
    """JPEG bytes of the face at `box` (x1, y1, x2, y2) with a little around it; nothing else of the photograph, and no metadata."""
    import cv2

    x1, y1, x2, y2 = (float(value) for value in box)
    margin = SURROUNDINGS * max(x2 - x1, y2 - y1)
    left, top = max(int(x1 - margin), 0), max(int(y1 - margin), 0)
    cut = image[top : int(y2 + margin) + 1, left : int(x2 + margin) + 1]
    scale = min(1.0, KEPT_SIDE / max(cut.shape[:2]))
    if scale < 1.0:
        cut = np.asarray(cv2.resize(cut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    encoded: bytes = cv2.imencode(".jpg", cut, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    return encoded
