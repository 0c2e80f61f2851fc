"""YUV4MPEG2 with 4:2:0 pictures, as GStreamer's y4menc writes it, read from a pipe.

A header line (`YUV4MPEG2 W640 H480 F25:1 … C420`), then for each picture a line `FRAME` and the planes Y, U and V of 8 bits.
The format packs the planes; y4menc up to 1.22 at least writes them with GStreamer's own strides, rows of a multiple of 4 bytes.
Which of the two it is shows in where the second `FRAME` stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.datatypes import Image

MAX_LINE = 256
MAX_SIDE = 16384
FRAME = b"FRAME"


@dataclass(frozen=True)
class Layout:
    """Bytes in a row and rows of the Y plane, and of each of U and V."""

    luma_stride: int
    luma_rows: int
    chroma_stride: int
    chroma_rows: int

    @property
    def luma(self) -> int:
        return self.luma_stride * self.luma_rows

    @property
    def chroma(self) -> int:
        return self.chroma_stride * self.chroma_rows

    @property
    def size(self) -> int:
        """Bytes of a picture."""
        return self.luma + 2 * self.chroma


def packed(width: int, height: int) -> Layout:
    """The layout of the format itself."""
    return Layout(width, height, (width + 1) // 2, (height + 1) // 2)


def padded(width: int, height: int) -> Layout:
    """The layout of GStreamer's I420 in memory (gst_video_info_set_format)."""
    rows = height + height % 2
    return Layout(-(-width // 4) * 4, rows, -(-((width + 1) // 2) // 4) * 4, rows // 2)


class Y4mReader:
    """Pictures of a stream.

    `fill` fills a buffer from the stream and says how many bytes it got: fewer than asked for only at the end.
    Raises ValueError for what is no such stream, or is one no more.
    """

    def __init__(self, fill: Callable[[memoryview], int]) -> None:
        self._fill = fill
        self._ahead = b""
        self._layout: Layout | None = None
        self.width = self.height = 0
        self.rate: float | None = None

    def read_header(self) -> bool:
        """Width, height and rate (frames a second, None if it varies) of what follows; False at the end of the stream."""
        line = self._line()
        if not line:
            return False
        if not line.startswith(b"YUV4MPEG2 "):
            raise ValueError("no YUV4MPEG2 stream")
        fields = {chr(field[0]): field[1:].decode("ascii", "replace") for field in line.split()[1:]}
        if not re.fullmatch("420(jpeg|mpeg2|paldv)?", fields.get("C", "420")):
            raise ValueError(f"pictures of the format {fields['C']}, not 420")
        sides = [fields.get(side, "") for side in "WH"]
        if not all(re.fullmatch(r"[0-9]{1,5}", side) and 0 < int(side) <= MAX_SIDE for side in sides):
            raise ValueError(f"pictures of {' x '.join(sides)} pixels")
        self.width, self.height = (int(side) for side in sides)
        rate = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", fields.get("F", ""))
        self.rate = int(rate[1]) / int(rate[2]) if rate and int(rate[1]) and int(rate[2]) else None
        return True

    def read_picture(self) -> Image | None:
        """The next picture as B, G, R; None at the end of the stream, also in the middle of a picture."""
        line = self._line()
        if not line:
            return None
        if line.split()[:1] != [FRAME]:
            raise ValueError("no picture where one should begin")
        if self._layout is None:
            return self._first()
        data = bytearray(self._layout.size)
        return self._bgr(data) if self._fill(memoryview(data)) == len(data) else None

    def _first(self) -> Image | None:
        """The first picture; what follows it tells the layout."""
        dense, wide = packed(self.width, self.height), padded(self.width, self.height)
        data = bytearray(wide.size)
        whole = memoryview(data)
        if self._fill(whole[: dense.size]) < dense.size:
            return None
        end = min(dense.size + len(FRAME), wide.size)
        ahead = bytes(data[dense.size : dense.size + self._fill(whole[dense.size : end])])
        if FRAME.startswith(ahead):
            self._layout, self._ahead = dense, ahead
            return self._bgr(data[: dense.size])
        self._layout = wide
        return self._bgr(data) if self._fill(whole[end:]) == wide.size - end else None

    def _line(self) -> bytes:
        """The next line; nothing at the end of the stream."""
        line = bytearray(self._ahead)
        self._ahead = b""
        one = bytearray(1)
        while len(line) < MAX_LINE:
            if not self._fill(memoryview(one)):
                return b""
            if one == b"\n":
                return bytes(line)
            line += one
        raise ValueError("no picture where one should begin")

    def _bgr(self, data: bytearray) -> Image:
        assert self._layout is not None
        return bgr(np.frombuffer(data, np.uint8), self.width, self.height, self._layout)


def bgr(data: NDArray[np.uint8], width: int, height: int, layout: Layout) -> Image:
    """I420 (BT.601, video range) in `layout` as B, G, R, uint8, height x width x 3."""
    import cv2

    columns, rows = width + width % 2, height + height % 2
    if layout.size != columns * rows * 3 // 2 or layout.luma_stride != columns:
        planes = [data[: layout.luma].reshape(layout.luma_rows, layout.luma_stride)[:height, :width]]
        planes[0] = np.pad(planes[0], ((0, rows - height), (0, columns - width)), "edge")
        for start in (layout.luma, layout.luma + layout.chroma):
            plane = data[start : start + layout.chroma].reshape(layout.chroma_rows, layout.chroma_stride)
            planes.append(plane[: rows // 2, : columns // 2])
        data = np.concatenate([plane.ravel() for plane in planes])
    image = cv2.cvtColor(data.reshape(rows * 3 // 2, columns), cv2.COLOR_YUV2BGR_I420)
    return np.ascontiguousarray(image[:height, :width])
