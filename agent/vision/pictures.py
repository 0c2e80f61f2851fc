"""Picture files from outside: checked before they are decoded, so that a small file cannot fill the memory."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from agent import jpeg
from agent.datatypes import Image
from agent.errors import AlmenaError

MAX_BYTES = 256 * 1024 * 1024
MAX_PIXELS = 60_000_000
"""180 MB once decoded."""


class PictureError(AlmenaError):
    """The bytes are not a picture that can be used."""


def decode(data: bytes) -> Image:
    """(H, W, 3) uint8 BGR from the bytes of a JPEG, PNG, BMP, WebP or TIFF file, upright by its EXIF tag. Raises PictureError.

    The decoders fill what a truncated file lacks with grey, so JPEG and PNG must have their end marks.
    """
    import cv2

    require_size(len(data))
    width, height = size(data)
    if width * height > MAX_PIXELS:
        raise PictureError(f"the picture has {width}x{height} pixels; at most {MAX_PIXELS} are allowed")
    if data.startswith(b"\xff\xd8") and not jpeg.has_end(data):
        raise PictureError("the JPEG is truncated: it has no end mark")
    if data.startswith(b"\x89PNG") and b"IEND" not in data[-64:]:
        raise PictureError("the PNG is truncated: it has no end mark")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise PictureError("the picture is damaged")
    return np.asarray(image, np.uint8)


def require_size(count: int) -> None:
    """Raise PictureError unless a file of `count` bytes may be read."""
    if not count:
        raise PictureError("the file is empty")
    if count > MAX_BYTES:
        raise PictureError(f"the file has {count} bytes; at most {MAX_BYTES} are allowed")


def size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels by the header alone. Raises PictureError if it is none of the five formats, or cut off."""
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            return struct.unpack_from(">II", data, 16)
        if data[:2] == b"\xff\xd8":
            found = jpeg.size(data)
            if found is None:
                raise PictureError("the picture is damaged")
            return found
        if data[:2] == b"BM":
            return _bmp_size(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _tiff_size(data)
    except struct.error:
        raise PictureError("the picture is cut off") from None
    raise PictureError("not a JPEG, PNG, BMP, WebP or TIFF picture")


def _bmp_size(data: bytes) -> tuple[int, int]:
    """From the information header; the oldest one is 12 bytes long. A negative height means rows from the top."""
    oldest = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if oldest else "<ii", data, 18)
    return abs(width), abs(height)


def _webp_size(data: bytes) -> tuple[int, int]:
    """From the first chunk (RFC 9649, clause 2.5 to 2.7)."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[place : place + 3], "little") + 1 for place in (24, 27))
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    return width, height


def _tiff_size(data: bytes) -> tuple[int, int]:
    """From the tags ImageWidth and ImageLength of the first directory (TIFF 6.0, clause 2), the picture that is decoded."""
    tags = dict(_tiff_tags(data))
    if not {256, 257} <= tags.keys():
        raise PictureError("the picture is damaged")
    return tags[256], tags[257]


def _tiff_tags(data: bytes) -> Iterator[tuple[int, int]]:
    """Tags of the first directory whose value is one SHORT or LONG."""
    order = "<" if data[:2] == b"II" else ">"
    place = struct.unpack_from(f"{order}I", data, 4)[0]
    for index in range(struct.unpack_from(f"{order}H", data, place)[0]):
        entry = place + 2 + 12 * index
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if kind in (3, 4):
            yield tag, struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, entry + 8)[0]
