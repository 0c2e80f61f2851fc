"""The gate before an engine that is not FP32: what it sees, what it refuses, and what happens without pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import store, workshop
from engines.backends.base import IMAGE, Build
from engines.backends.onnxruntime import OnnxRuntimeBackend
from engines.base import Engine, EngineError, TensorSpec
from engines.card import LocalSource, ModelCard, card
from engines.decoders.embedding import EmbeddingDecoder, EmbeddingParams
from engines.errors import FetchError
from engines.fetch import assets
from engines.model import EngineOptions, FaceEmbedder, Workshop
from engines.parity import detector_judge, embedder_judge, one_by_one, portraits
from engines.results import Detections

pytestmark = pytest.mark.unit

BATCH = 4
TENSORS = Mapping[str, np.ndarray[Any, Any]]


class Scripted(Engine):
    """Gives what `answer` makes of its picture."""

    name, backend, precision, parallel = "scripted", "scripted", "bf16", 1

    def __init__(self, shape: tuple[int, ...], answer: Callable[[np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]) -> None:
        self.inputs = (TensorSpec(IMAGE, "uint8", shape),)
        self.outputs = ()
        self._answer = answer

    def _read(self, tensors: TENSORS, reader: Callable[[TENSORS], Any]) -> Any:
        return reader(self._answer(tensors[IMAGE]))


class ListDecoder:
    """Rows of (x1, y1, x2, y2, score)."""

    width = height = 64

    def decode(self, outputs: TENSORS, threshold: float) -> Detections:
        rows = outputs["faces"][outputs["faces"][:, 4] >= threshold].astype(np.float32)
        return Detections(rows[:, :4], rows[:, 4], np.zeros((len(rows), 5, 2), np.float32))

    def scores(self, outputs: TENSORS) -> np.ndarray[Any, Any]:
        return outputs["faces"][:, 4]


def test_an_engine_for_several_pictures_is_asked_about_each() -> None:
    engine = Scripted((BATCH, 8, 8, 3), lambda images: {"mean": images.mean((1, 2, 3), keepdims=True)})
    pictures = [np.full((8, 8, 3), number, np.uint8) for number in range(BATCH + 2)]
    assert [outputs["mean"].tolist() for outputs in one_by_one(engine, pictures)] == [[[[[number]]]] for number in range(BATCH + 2)]


def put_portraits(directory: Path) -> None:
    """Noise, darker and brighter, under the names of the portraits."""
    directory.mkdir(exist_ok=True)
    for seed, name in enumerate(portraits()):
        noise = np.random.default_rng(seed).integers(120 * seed, 120 * seed + 100, (400, 400, 3), np.uint8)
        assert cv2.imwrite(str(directory / assets()[name].filename), noise)


def faces(*rows: tuple[float, ...]) -> Scripted:
    return Scripted((1, 64, 64, 3), lambda _: {"faces": np.array(rows, np.float32).reshape(-1, 5)})


FACE = (10, 10, 30, 30, 0.9)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([FACE], ""),
        ([], "scores differ by 0.900"),
        ([(10, 10, 30, 30, 0.5)], "scores differ by 0.400"),
        ([(14, 10, 34, 30, 0.9)], "boxes overlap by 0.667"),
        ([FACE, (40, 40, 60, 60, 0.9), (40, 2, 60, 22, 0.9)], "boxes overlap by 0.000"),
    ],
    ids=["the same", "a face is missing", "a score is off", "a box is off", "faces are made up"],
)
def test_a_detector_is_compared_both_ways(tmp_path: Path, found: list[tuple[float, ...]], why: str) -> None:
    put_portraits(tmp_path)
    parity = detector_judge(card("centerface"), ListDecoder(), tmp_path)(faces(FACE), faces(*found))  # type: ignore[arg-type]
    assert parity.why.startswith(why)
    assert bool(parity.why) == bool(why)
    assert (parity.pictures, parity.count, parity.faces) == ("portraits", 4, 4)


def embedder(spoiled_row: int | None) -> Scripted:
    """A template is the mean colour; in one row of a batch it is wrong."""

    def answer(chips: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        vectors = chips.reshape(len(chips), -1, 3).mean(axis=1).astype(np.float32) / 255
        if spoiled_row is not None:
            vectors[spoiled_row] = vectors[0]
        return {"templates": vectors}

    return Scripted((BATCH, 150, 150, 3), answer)


@pytest.mark.parametrize("row", [1, 2, 3])
def test_every_row_of_a_batch_is_judged_with_a_chip_of_its_own(tmp_path: Path, row: int) -> None:
    put_portraits(tmp_path)
    judge = embedder_judge(card("dlib-resnet"), EmbeddingDecoder(EmbeddingParams(output="templates", normalise=False)), tmp_path)
    assert judge(embedder(None), embedder(None)).why == ""
    refused = judge(embedder(None), embedder(row))
    assert refused.why.startswith("templates are ")
    assert refused.distance is not None
    assert refused.distance > (card("dlib-resnet").allowance.distance or 0)


class SpoiledBackend(OnnxRuntimeBackend):
    """ONNX Runtime whose bf16 adds `error` to every output of its model."""

    error = 0.0

    def precisions(self, unit: str) -> tuple[str, ...]:
        return ("bf16", "fp32")

    def build(self, build: Build, target: Path) -> None:
        super().build(build, target)
        if build.precision == "bf16":
            graph = onnx.load(str(target))
            graph.graph.initializer.append(numpy_helper.from_array(np.float32([self.error]), "error"))
            graph.graph.node[-1].output[0] = "true"
            graph.graph.node.append(helper.make_node("Add", ["true", "error"], ["templates"]))
            target.write_bytes(graph.SerializeToString())

    def load(self, build: Build, built: Path) -> Engine:
        engine = super().load(build, built)
        engine.precision = build.precision
        return engine


class Site:
    """Folders of models and engines, and a small embedder there; the portraits may be had or not."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options = EngineOptions(folder / "models", folder / "engines", "onnxruntime", threads=1)
        self.reachable = True
        self.asked = 0
        monkeypatch.setattr(workshop, "ensure_asset", self._ensure_asset)
        monkeypatch.setattr(store, "MEASURE_S", 0.01)
        file = folder / "small.onnx"
        axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
        size = numpy_helper.from_array(np.float32([255]), "size")
        nodes = [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Div", ["mean", "size"], ["templates"]),
        ]
        values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 150, 150])]
        outputs = [helper.make_tensor_value_info("templates", TensorProto.FLOAT, ["N", 3])]
        graph = helper.make_graph(nodes, "small", values, outputs, [axes, size])
        file.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        changes = {"format": "onnx", "converter": None, "sha256": digest, "source": LocalSource(kind="local", path=str(file))}
        params = card("dlib-resnet").decoder.model_copy(update={"params": {"output": "templates", "normalise": False}})
        self.card: ModelCard = card("dlib-resnet").model_copy(update={**changes, "decoder": params})

    def _ensure_asset(self, name: str, directory: Path, _progress: object) -> None:
        self.asked += 1
        if not self.reachable:
            raise FetchError(f"{name}: pip cannot download it")
        put_portraits(directory)

    def load(self, error: float = 0.0, **changes: Any) -> FaceEmbedder:
        workshop = Workshop(self.card, EngineOptions(**{**{key: getattr(self.options, key) for key in self.options.__slots__}, **changes}))
        workshop.backend = SpoiledBackend()
        workshop.backend.error = error
        return FaceEmbedder(workshop)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_the_portraits_are_fetched_before_anything_but_fp32_is_taken(site: Site) -> None:
    loaded = site.load()
    assert loaded.passport.precision == "bf16"
    assert loaded.passport.parity is not None
    assert (loaded.passport.parity.pictures, loaded.passport.parity.count) == ("portraits", 6)
    asked = site.asked
    site.load()
    assert site.asked == asked


def test_a_spoiled_engine_is_refused_with_figures(site: Site) -> None:
    passport = site.load(error=0.5).passport
    assert passport.precision == "fp32"
    assert passport.refused["bf16"].why.startswith("templates are 0.8660 apart, allowed are ")
    with pytest.raises(EngineError, match=r"bf16: templates are 0\.8660 apart"):
        site.load(error=0.5, precision="bf16")


def test_without_the_portraits_it_is_fp32_until_they_are_there(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.reachable = False
    passport = site.load().passport
    assert passport.precision == "fp32"
    assert "almena models fetch astronaut grace-hopper" in passport.refused["bf16"].why
    assert "left at FP32" in caplog.text
    asked = site.asked
    assert site.load().passport == passport
    assert site.asked == asked
    with pytest.raises(EngineError, match="almena models fetch"):
        site.load(precision="bf16")
    put_portraits(site.options.models_dir)
    assert site.load().passport.precision == "bf16"


def test_fp32_needs_no_portraits(site: Site) -> None:
    assert site.load(precision="fp32").passport.precision == "fp32"
    assert site.asked == 0
