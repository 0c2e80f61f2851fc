"""YUV4MPEG2 streams in both layouts, whole, cut off and wrong."""

from __future__ import annotations

import io

import numpy as np
import pytest

from agent.vision.sources.y4m import Layout, Y4mReader, packed, padded

pytestmark = pytest.mark.unit

HEAD = b"YUV4MPEG2 C420 W%d H%d Ip F25:1 A1:1\n"


def reader(data: bytes) -> Y4mReader:
    stream = io.BytesIO(data)
    return Y4mReader(stream.readinto)


def picture(level: int, layout: Layout, width: int, height: int) -> bytes:
    """A grey picture in video range, with rubbish in the padding."""
    luma = np.full((layout.luma_rows, layout.luma_stride), 255, np.uint8)
    luma[:height, :width] = level
    chroma = np.zeros((layout.chroma_rows, layout.chroma_stride), np.uint8)
    chroma[: (height + 1) // 2, : (width + 1) // 2] = 128
    return b"FRAME\n" + luma.tobytes() + 2 * chroma.tobytes()


@pytest.mark.parametrize("layout", [packed, padded])
@pytest.mark.parametrize("size", [(8, 6), (7, 6), (8, 5), (321, 241), (322, 2), (1, 1), (2, 2), (15, 2)])
def test_pictures_of_every_size_in_both_layouts(layout, size: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    width, height = size
    levels = (16, 126, 235)
    one = reader(HEAD % size + b"".join(picture(level, layout(*size), *size) for level in levels))
    assert one.read_header()
    images = []
    while (image := one.read_picture()) is not None:
        images.append(image)
    assert [image.shape for image in images] == [(height, width, 3)] * 3
    assert [(image.min(), image.max()) for image in images] == [(0, 0), (128, 128), (255, 255)]
    assert images[0].flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("kept", [0, 1, 20])
def test_a_stream_that_breaks_off_ends(kept: int) -> None:
    data = HEAD % (8, 6) + picture(126, packed(8, 6), 8, 6)
    one = reader(data + data[:kept].replace(b"YUV4", b"FRAME\n"))
    assert one.read_header()
    assert one.read_picture() is not None
    assert one.read_picture() is None


@pytest.mark.parametrize(("rate", "shown"), [(b"30000:1001", 29.97), (b"0:1", None), (b"25:0", None), (b"x", None)])
def test_the_rate(rate: bytes, shown: float | None) -> None:
    one = reader(b"YUV4MPEG2 W2 H2 F" + rate + b"\n")
    assert one.read_header()
    assert one.rate == (None if shown is None else pytest.approx(shown, abs=0.001))
    assert not reader(b"").read_header()


@pytest.mark.parametrize(
    "header",
    [b"RIFF....AVI \n", b"YUV4MPEG2 W2\n", b"YUV4MPEG2 W0 H2\n", b"YUV4MPEG2 W99999 H2\n", b"YUV4MPEG2 W-2 H2\n",
     b"YUV4MPEG2 W2 H2 C422\n", b"YUV4MPEG2 W2 H2 C420p10\n", b"\xff" * 300],
)  # fmt: skip
def test_what_is_no_such_stream_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match=r"YUV4MPEG2|pictures? "):
        reader(header).read_header()


def test_pictures_that_stand_elsewhere_are_noticed() -> None:
    small, large = (picture(126, packed(*size), *size) for size in ((8, 6), (16, 16)))
    one = reader(HEAD % (8, 6) + small + large)
    assert one.read_header()
    assert one.read_picture() is not None
    assert one.read_picture() is not None
    with pytest.raises(ValueError, match="no picture where one should begin"):
        one.read_picture()
