"""What the bytes of a JPEG say of it without being decoded (ITU-T T.81)."""

from __future__ import annotations

import struct


def has_end(jpeg: bytes) -> bool:
    """Whether the end mark comes after the first scan begins (B.1.1). What follows it may be anything."""
    place = 2
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF and jpeg[place + 1] != 0xDA:
        place += 1 if jpeg[place + 1] == 0xFF else 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return jpeg.find(b"\xff\xd9", place) >= 0


def size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, from the start-of-frame segment (B.2.2); None where there is none."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        else:
            place += 2 + int(struct.unpack_from(">H", data, place + 2)[0])
    return None


def is_whole(data: bytes) -> bool:
    """Whether it has its marks at both ends, and a size."""
    found = size(data) if data[:3] == b"\xff\xd8\xff" else None
    return found is not None and min(found) > 0 and has_end(data)
