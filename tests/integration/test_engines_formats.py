"""One small Keras network in every format, on every backend that runs here."""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from engines.backends.base import IMAGE
from engines.card import Format, card
from engines.convert import converted, tensorflow_weights
from engines.convert.openvino_from_any import OpenVinoFromAny
from engines.errors import MissingRuntimeError, ModelFileError, UnsupportedOperatorError
from engines.fetch import ensure
from engines.files import sha256
from engines.model import EngineOptions, Workshop, load_classifier
from engines.parity import Judge
from engines.store import EngineStore
from tests.fakes.cards import LABELS, write_card

HERE = ("openvino", "onnxruntime", "litert", "tensorflow")


class Site:
    """Folders that the tests share, so that each conversion is made once, and cards for the network in each format."""

    def __init__(self, folder: Path, made: Path) -> None:
        self.options = EngineOptions(folder / "models", folder / "engines", precision="fp32")
        kept = np.load(made / "network.npz")
        self.pictures: NDArray[np.uint8] = kept["pictures"]
        self.answers: NDArray[np.float32] = kept["answers"]
        self.cards = {
            name: str(write_card(folder / f"{name}.yaml", made / f"network{suffix}", name))
            for name, suffix in (("keras", ".keras"), ("savedmodel", ".savedmodel"), ("tflite", ".tflite"))
        }
        keras = card(self.cards["keras"])
        fetched = Workshop(keras, self.options).order((32, 24), 1)("fp32").model
        assert fetched.is_dir()
        onnx = converted(keras, self.options.models_dir / keras.filename)[0]
        OpenVinoFromAny().convert(onnx, folder / "ir")
        for name, path in (("onnx", onnx), ("openvino", folder / "ir" / "model.xml")):
            self.cards[name] = str(write_card(folder / f"{name}.yaml", path, name))

    def open(self, model_format: Format, backend: str, batch: int = 1, judge: Judge | None = None) -> Any:
        workshop = Workshop(card(self.cards[model_format]), replace(self.options, backend=backend))
        return workshop.open((32, 24), judge or never, batch)


def never(*_: Any) -> Any:
    raise AssertionError("FP32 is compared with nothing")


@pytest.fixture(scope="module")
def site(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("formats"), small_models)


@pytest.mark.parametrize(
    ("model_format", "backend"),
    [
        *(("keras", backend) for backend in HERE),
        *(("savedmodel", backend) for backend in ("openvino", "tensorflow")),
        *(("tflite", backend) for backend in ("openvino", "onnxruntime", "litert")),
        *(("onnx", backend) for backend in ("openvino", "onnxruntime")),
        ("openvino", "openvino"),
    ],
)
def test_every_way_gives_what_keras_gives(site: Site, model_format: Format, backend: str) -> None:
    engine, passport = site.open(model_format, backend)
    with engine:
        assert engine.backend == backend
        assert [(spec.name, spec.shape) for spec in engine.outputs] == [("answer", (1, 4))]
        found = np.concatenate([engine.infer({IMAGE: one[None]})["answer"] for one in site.pictures])
    np.testing.assert_allclose(found, site.answers, atol=1e-4)
    assert passport.precision == "fp32"
    assert (site.options.engines_dir / passport.file).exists()


@pytest.mark.parametrize("backend", HERE)
def test_a_batch_gives_the_same(site: Site, backend: str) -> None:
    engine, _ = site.open("keras", backend, batch=5)
    with engine:
        np.testing.assert_allclose(engine.infer({IMAGE: site.pictures})["answer"], site.answers, atol=1e-4)


def test_a_second_start_converts_and_builds_nothing(site: Site) -> None:
    site.open("keras", "tensorflow")[0].close()
    before = {path: path.stat().st_mtime_ns for path in [*site.options.models_dir.rglob("*"), *site.options.engines_dir.rglob("*")]}
    site.open("keras", "tensorflow")[0].close()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_damaged_built_folder_is_built_anew(site: Site) -> None:
    engine, passport = site.open("savedmodel", "tensorflow")
    engine.close()
    graph = site.options.engines_dir / passport.file / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-10])
    engine, again = site.open("savedmodel", "tensorflow")
    engine.close()
    assert again.file_sha256 == sha256(site.options.engines_dir / passport.file)
    assert site.open("savedmodel", "tensorflow")[1] == again


def test_a_quantised_tflite_file_computes_in_int8_and_says_so(site: Site, small_models: Path, tmp_path: Path) -> None:
    path = write_card(tmp_path / "small.yaml", small_models / "network-int8.tflite", "tflite")
    with_litert = EngineOptions(tmp_path / "models", tmp_path / "engines", "litert", "fp32")
    classifier = load_classifier(str(path), with_litert)
    assert classifier.passport.precision == classifier.engine.precision == "int8"
    assert (parity := classifier.passport.parity) is not None
    assert (parity.note, parity.why) == ("the file itself is int8; it was not compared with an FP32 model", "")
    found = classifier.classify(list(site.pictures))
    classifier.close()
    load_classifier(str(path), with_litert).close()
    assert EngineStore(with_litert.engines_dir).passports() == [classifier.passport], "it was built anew"
    assert found.labels == LABELS
    assert 0 < np.abs(found.probabilities - site.answers).max() < 0.05


def test_a_keras_file_that_is_damaged_is_told(small_models: Path, tmp_path: Path) -> None:
    with ZipFile(small_models / "network.keras") as whole, ZipFile(tmp_path / "odd.keras", "w") as damaged:
        for name in whole.namelist():
            damaged.writestr(name, b"{}" if name == "config.json" else whole.read(name))
    odd = card(str(write_card(tmp_path / "small.yaml", tmp_path / "odd.keras", "keras")))
    with pytest.raises(ModelFileError, match=r"small-.*\.keras: Keras [\d.]+ cannot load it: .*save it again"):
        converted(odd, ensure(odd, tmp_path / "models"), ("savedmodel",))
    (tmp_path / "cut.keras").write_bytes((small_models / "network.keras").read_bytes()[:-500])
    cut = card(str(write_card(tmp_path / "small.yaml", tmp_path / "cut.keras", "keras")))
    with pytest.raises(ModelFileError, match=r"small-.*\.keras is a keras file that is damaged or cut off"):
        converted(cut, ensure(cut, tmp_path / "models"), ("savedmodel",))


@pytest.mark.parametrize("wanted", ["onnx", "tflite"])
def test_a_conversion_that_lacks_an_operator_names_it(small_models: Path, tmp_path: Path, wanted: Format) -> None:
    odd = card(str(write_card(tmp_path / "small.yaml", small_models / "bessel.savedmodel", "savedmodel")))
    with pytest.raises(ModelFileError, match=r"small-.*BesselI0e.*choose"):
        converted(odd, ensure(odd, tmp_path / "models"), (wanted,))
    assert list((tmp_path / "models" / "converted").iterdir()) == []


def test_an_operator_of_a_tflite_file_that_openvino_lacks_is_named(small_models: Path, tmp_path: Path) -> None:
    odd = card(str(write_card(tmp_path / "small.yaml", small_models / "neighbours.tflite", "tflite")))
    options = EngineOptions(tmp_path / "models", tmp_path / "engines", "openvino", "fp32")
    with pytest.raises(
        UnsupportedOperatorError, match=r"OpenVINO .* has no operator LOCAL_RESPONSE_NORMALIZATION for small-.*\. Choose another"
    ):
        Workshop(odd, options).open((32, 24), never, 1)


def test_large_weights_go_around_tf2onnx_and_come_back(site: Site, small_models: Path, tmp_path: Path) -> None:
    wide = card(str(write_card(tmp_path / "wide.yaml", small_models / "wide.savedmodel", "savedmodel")))
    options = EngineOptions(tmp_path / "models", tmp_path / "engines", "onnxruntime", "fp32")
    engine, _ = Workshop(wide, options).open((32, 24), never, len(site.pictures))
    answers = engine.infer({IMAGE: site.pictures})["answer"]
    np.testing.assert_allclose(answers, np.load(small_models / "wide.npy"), rtol=0, atol=2e-4)
    graph = onnx.load(str(converted(wide, ensure(wide, tmp_path / "models"))[0])).graph
    [given] = graph.input
    assert re.fullmatch(r"keras_tensor\w*", given.name)
    weights = {one.name: list(one.dims) for one in graph.initializer}
    assert [weights[node.input[1]] for node in graph.node if node.op_type == "Conv"] == [[700, 3, 8, 8], [700, 700, 3, 3]]
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_a_conversion_that_memory_does_not_suffice_for_is_refused_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_weights, "available_memory", lambda: 3_000_000_000)
    tensorflow_weights._require_memory(50_000_000)
    with pytest.raises(tensorflow_weights.WrongModelError, match=r"about 4500 MB of memory more, and 3000 MB are free.*openvino"):
        tensorflow_weights._require_memory(100_000_000)


def test_without_tensorflow_it_is_said_what_to_install(small_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.convert.tensorflow.find_spec", lambda name: None if name == "tensorflow" else find_spec(name))
    keras = card(str(write_card(tmp_path / "small.yaml", small_models / "network.keras", "keras")))
    with pytest.raises(MissingRuntimeError, match=r"needs tensorflow.*pip install 'almena\[tensorflow\]'"):
        converted(keras, ensure(keras, tmp_path / "models"), ("savedmodel",))
