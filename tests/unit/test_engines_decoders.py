from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.stills import AtScore, find_faces
from engines.base import Engine, T, Tensor, TensorSpec
from engines.card import card
from engines.decoders.base import DetectionDecoder, overlaps, suppress
from engines.decoders.embedding import EmbeddingDecoder, EmbeddingParams
from engines.errors import NotFiniteError
from engines.model import EngineOptions, FaceDetector, Workshop
from engines.registry import DECODERS, resolve

pytestmark = pytest.mark.unit

F32 = NDArray[np.float32]


def decoder(name: str) -> DetectionDecoder:
    entry = card(name)
    kind = resolve(DECODERS, entry.decoder.name, "decoder")
    width, height = entry.input.sizes[0]
    made: DetectionDecoder = kind(kind.Params(**entry.decoder.params), height, width)
    return made


def centerface_maps(width: int = 640, height: int = 384) -> dict[str, F32]:
    channels = {"537": 1, "538": 2, "539": 2, "540": 10}
    return {name: np.zeros((1, count, height // 4, width // 4), np.float32) for name, count in channels.items()}


def test_centerface_cell() -> None:
    maps = centerface_maps()
    maps["537"][0, 0, 20, 30] = 0.9
    maps["538"][0, :, 20, 30] = np.log(20), np.log(10)
    maps["539"][0, :, 20, 30] = 0.25, -0.25
    maps["540"][0, :, 20, 30] = np.arange(10) / 10
    found = decoder("centerface").decode(maps, 0.5)
    centre_x, centre_y = 4 * (30 - 0.25 + 0.5), 4 * (20 + 0.25 + 0.5)
    np.testing.assert_allclose(found.boxes, [[centre_x - 20, centre_y - 40, centre_x + 20, centre_y + 40]], rtol=1e-5)
    np.testing.assert_allclose(found.landmarks[0, 1], [centre_x - 20 + 0.3 * 40, centre_y - 40 + 0.2 * 80], rtol=1e-5)
    assert found.scores.tolist() == pytest.approx([0.9])


def test_neighbouring_cells_of_one_face_are_one_detection() -> None:
    maps = centerface_maps()
    maps["537"][0, 0, 20, 30:33] = 0.7, 0.9, 0.8
    maps["537"][0, 0, 70, 100] = 0.6
    maps["538"][:] = np.log(12)
    found = decoder("centerface").decode(maps, 0.5)
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])


class Fixed(Engine):
    """Says the same of every picture."""

    name, backend, precision, parallel = "centerface", "fixed", "fp32", 1
    inputs = (TensorSpec("image", "uint8", (1, 384, 640, 3)),)
    outputs = ()

    def __init__(self, maps: dict[str, F32]) -> None:
        self.maps = maps

    def _read(self, tensors: Mapping[str, Tensor], reader: Callable[[Mapping[str, Tensor]], T]) -> T:
        return reader(self.maps)


@pytest.mark.parametrize("output", ["537", "538", "539", "540"])
def test_a_face_that_is_not_finite_is_an_error(output: str, tmp_path: Path) -> None:
    maps = centerface_maps()
    maps["537"][0, 0, 20, 30:33] = 0.7, 0.9, 0.8
    maps["538"][:] = np.log(12)
    options = EngineOptions(tmp_path, tmp_path)
    shop = SimpleNamespace(card=card("centerface"), why="", options=options, open=lambda *_: (Fixed(maps), None))
    detector = FaceDetector(cast(Workshop, shop))
    assert len(detector.detect(np.zeros((360, 640, 3), np.uint8))) == 1
    maps[output][0, 0, 20, 31] = np.nan
    with pytest.raises(NotFiniteError, match=r"centerface: output .* holds NaN or infinity at fp32"):
        detector.detect(np.zeros((360, 640, 3), np.uint8))


def test_photographs_of_all_shapes_share_one_further_engine(tmp_path: Path) -> None:
    opened: list[tuple[int, int]] = []

    def open_engine(size: tuple[int, int], *_: object) -> tuple[Fixed, None]:
        opened.append(size)
        engine = Fixed(centerface_maps(*size))
        engine.inputs = (TensorSpec("image", "uint8", (1, size[1], size[0], 3)),)
        return engine, None

    shop = SimpleNamespace(card=card("centerface"), why="", options=EngineOptions(tmp_path, tmp_path), open=open_engine)
    detector = FaceDetector(cast(Workshop, shop))
    for width, height in ((640, 360), (800, 600), (600, 800), (700, 700), (360, 640), (100, 100), (90, 1200), (2000, 100)):
        assert len(find_faces(AtScore(detector, 0.5), np.zeros((height, width, 3), np.uint8))) == 0
    assert opened == [(640, 384), (640, 640)]


@pytest.mark.parametrize("name", ["centerface", "blazeface-short", "blazeface-full", "yunet"])
def test_nothing_above_the_threshold_is_nothing_found(name: str) -> None:
    made = decoder(name)
    outputs = {"centerface": centerface_maps, "yunet": yunet_maps}.get(name, lambda: blazeface_maps(name))()
    assert len(made.decode(outputs, 0.6)) == 0


def blazeface_maps(name: str) -> dict[str, F32]:
    params = card(name).decoder.params
    side = card(name).input.sizes[0][0]
    count = sum((side // stride) ** 2 * anchors for stride, anchors in params["layers"])
    return {params["regressors"]: np.zeros((1, count, 16), np.float32), params["logits"]: np.full((1, count, 1), -1e4, np.float32)}


@pytest.mark.parametrize(
    ("name", "count", "index", "anchor"),
    [
        ("blazeface-short", 896, 0, (4, 4)),
        ("blazeface-short", 896, 3, (12, 4)),
        ("blazeface-short", 896, 512 + 6, (24, 8)),
        ("blazeface-full", 2304, 49, (6, 6)),
    ],
)
def test_blazeface_anchors(name: str, count: int, index: int, anchor: tuple[float, float]) -> None:
    maps = blazeface_maps(name)
    params = card(name).decoder.params
    assert maps[params["logits"]].size == count
    maps[params["logits"]][0, index] = 1e4
    maps[params["regressors"]][0, index] = [1, 2, 30, 40, -8, -9, 8, -9, 0, 0, 0, 10, 5, 5, 5, 5]
    found = decoder(name).decode(maps, 0.5)
    x, y = anchor
    assert found.scores.tolist() == [1.0]
    np.testing.assert_allclose(found.boxes, [[x + 1 - 15, y + 2 - 20, x + 1 + 15, y + 2 + 20]])
    expected = [[x - 8, y - 9], [x + 8, y - 9], [x, y], [x - 7.12, y + 10], [x + 7.12, y + 10]]
    np.testing.assert_allclose(found.landmarks[0], expected, rtol=1e-5)


def yunet_maps() -> dict[str, F32]:
    shapes = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
    return {
        f"{kind}_{stride}": np.zeros((1, (640 // stride) ** 2, channels), np.float32)
        for stride in (8, 16, 32)
        for kind, channels in shapes.items()
    }


def test_yunet_cell() -> None:
    maps, cell = yunet_maps(), 40 * 3 + 5
    maps["cls_16"][0, cell], maps["obj_16"][0, cell] = 0.81, 1.0
    maps["bbox_16"][0, cell] = 0.5, 0.25, np.log(2), np.log(3)
    maps["kps_16"][0, cell] = np.arange(10) / 10
    found = decoder("yunet").decode(maps, 0.6)
    assert found.scores.tolist() == pytest.approx([0.9])
    np.testing.assert_allclose(found.boxes, [[5.5 * 16 - 16, 3.25 * 16 - 24, 5.5 * 16 + 16, 3.25 * 16 + 24]], rtol=1e-5)
    np.testing.assert_allclose(found.landmarks[0, 2], [5.4 * 16, 3.5 * 16], rtol=1e-5)


def test_suppression_keeps_the_best_of_those_that_overlap() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [8, 0, 18, 10], [50, 50, 60, 60]], np.float32)
    assert suppress(boxes, 0.3).tolist() == [0, 2, 3]


def test_overlap_of_boxes() -> None:
    first = np.array([[0, 0, 10, 10]], np.float32)
    second = np.array([[5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10]], np.float32)
    np.testing.assert_allclose(overlaps(first, second), [[1 / 3, 0, 1]], rtol=1e-6)


def test_templates_are_normalised_only_where_the_card_says_so() -> None:
    raw = {"fc1": np.array([[3, 4]], np.float32)}
    assert EmbeddingDecoder(EmbeddingParams(output="fc1", normalise=False)).decode(raw).tolist() == [[3, 4]]
    np.testing.assert_allclose(EmbeddingDecoder(EmbeddingParams(output="fc1", normalise=True)).decode(raw), [[0.6, 0.8]], rtol=1e-6)
