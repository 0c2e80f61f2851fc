"""Picture files from outside, and the looks at photographs."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.datatypes import Image
from agent.errors import ItemError
from agent.vision import pictures
from agent.vision.pictures import PictureError, decode, size
from agent.vision.sources.folder import FolderSource
from calibration.stills import find_faces
from engines.results import Detections

pytestmark = pytest.mark.unit

WEBP = cv2.IMWRITE_WEBP_QUALITY
FORMATS = [(".jpg", []), (".png", []), (".bmp", []), (".tif", []), (".webp", [WEBP, 80]), (".webp", [WEBP, 101])]


def encoded(suffix: str, parameters: list[int], width: int = 75, height: int = 52) -> bytes:
    image = np.full((height, width, 3), 90, np.uint8)
    return bytes(cv2.imencode(suffix, image, parameters)[1].tobytes())


@pytest.mark.parametrize(("suffix", "parameters"), FORMATS, ids=["jpeg", "png", "bmp", "tiff", "webp", "webp-lossless"])
def test_the_size_is_known_before_decoding(suffix: str, parameters: list[int]) -> None:
    data = encoded(suffix, parameters)
    assert size(data) == (75, 52)
    assert decode(data).shape == (52, 75, 3)


@pytest.mark.parametrize(("suffix", "parameters"), FORMATS, ids=["jpeg", "png", "bmp", "tiff", "webp", "webp-lossless"])
def test_too_many_pixels_are_refused_in_every_format(suffix: str, parameters: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 75 * 52 - 1)
    with pytest.raises(PictureError, match=r"75x52 pixels; at most 3899 are allowed"):
        decode(encoded(suffix, parameters))


@pytest.mark.parametrize(
    "data", [b"GIF89a" + bytes(20), b"BM", b"II*\0\xff\xff\0\0", b"\x89PNG\r\n\x1a\n", b"RIFF....WEBP", b"\xff\xd8\xff\xc0", b""]
)
def test_what_has_no_size_is_no_picture(data: bytes) -> None:
    with pytest.raises(PictureError):
        decode(data)


def test_a_file_that_is_too_large_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.tif"
    path.touch()
    os.truncate(path, 10**12)
    os.utime(path, (0, 0))
    source = FolderSource(FolderSource.Config.model_validate({"path": tmp_path, "watch": False}), "inbox")
    source.open()
    with pytest.raises(ItemError, match=r"huge\.tif: the file has 1000000000000 bytes") as caught:
        source.read()
    source.failed(caught.value.item, str(caught.value))
    assert (tmp_path / "failed" / "huge.tif").exists()


@pytest.mark.parametrize("progressive", [0, 1])
def test_a_film_behind_a_photograph_is_no_harm_and_a_cut_one_is_told(progressive: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive])[1].tobytes()
    assert decode(data + b"a film: \xff\xda and so on").shape == (40, 60, 3)
    with pytest.raises(PictureError, match="the JPEG is truncated"):
        decode(data[:-300])


class Looks:
    """A detector that finds one face, the bright square, in pictures of at most `limit` pixels a side."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.shapes: list[tuple[int, ...]] = []

    def detect(self, image: Image) -> Detections:
        self.shapes.append(image.shape)
        rows, columns = np.nonzero(image[..., 0] > 128)
        if max(image.shape) > self.limit or not len(rows):
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))
        box = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)
        return Detections(box, np.ones(1, np.float32), np.repeat(box[:, None, :2], 5, 1))


@pytest.mark.parametrize("limit", [1920, 320])
def test_a_large_photograph_is_shrunk_before_room_is_added(limit: int) -> None:
    image = np.zeros((4000, 6000, 3), np.uint8)
    image[1000:2000, 3000:4200] = 255
    looks = Looks(limit)
    found = find_faces(looks, image)
    np.testing.assert_allclose(found.boxes, [[3000, 1000, 4200, 2000]], atol=30)
    np.testing.assert_allclose(found.landmarks[0, 0], [3000, 1000], atol=30)
    assert max(max(shape) for shape in looks.shapes[1:]) <= 1922


@pytest.mark.parametrize("shape", [(1, 3000, 3), (3000, 1, 3)])
def test_a_photograph_that_is_a_line_shows_nobody(shape: tuple[int, int, int]) -> None:
    assert len(find_faces(Looks(320), np.zeros(shape, np.uint8))) == 0
