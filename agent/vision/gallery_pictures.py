"""Pictures that people hand in: checked before they are decoded, and cut down to the face before they are kept."""

from __future__ import annotations

import struct

import numpy as np

from agent.datatypes import Image
from agent.errors import AlmenaError

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 60_000_000
KEPT_SIDE = 512
"""The longer side in pixels of a kept picture."""
SURROUNDINGS = 0.8
"""Face sizes kept on each side, so that another detector can find the face again."""


class PictureError(AlmenaError):
    """The bytes are not a picture that can be used."""


def decode(data: bytes) -> Image:
    """(H, W, 3) uint8 BGR from JPEG or PNG bytes, turned as the EXIF orientation says. Raises PictureError."""
    import cv2

    if len(data) > MAX_BYTES:
        raise PictureError(f"the picture has {len(data)} bytes; at most {MAX_BYTES} are allowed")
    width, height = size(data)
    if width * height > MAX_PIXELS:
        raise PictureError(f"the picture has {width}x{height} pixels; at most {MAX_PIXELS} are allowed")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise PictureError("the picture is damaged")
    return np.asarray(image, np.uint8)


def size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels by the header alone. Raises PictureError if it is neither JPEG nor PNG."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    raise PictureError("not a JPEG or PNG picture")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """From the start-of-frame segment (ITU-T T.81, B.2.2)."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        else:
            place += 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
    raise PictureError("the picture is damaged")


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
