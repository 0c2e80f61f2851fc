from __future__ import annotations

import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import building
from engines.backends.base import IMAGE, Build
from engines.backends.onnxruntime import OnnxRuntimeBackend
from engines.base import Engine, EngineError, TensorSpec
from engines.building import built_by
from engines.card import ModelInput
from engines.errors import ModelFileError, NotFiniteError, TooLittleMemoryError
from engines.parity import Parity
from engines.store import EngineStore, Identity, per_second

pytestmark = pytest.mark.unit

FEED = ModelInput(layout="NCHW", colour="BGR", sizes=((8, 8),), resize="letterbox")
ALLOWED = 0.5


class CountingBackend(OnnxRuntimeBackend):
    """ONNX Runtime that counts, and whose bf16 is a model that adds `error` to the true result."""

    def __init__(self, error: float = 0.1) -> None:
        self.error = error
        self.built: list[str] = []
        self.loaded = 0
        self.loads_as = ""

    def precisions(self, unit: str) -> tuple[str, ...]:
        return ("bf16", "fp32")

    def build(self, build: Build, target: Path) -> None:
        self.built.append(build.precision)
        super().build(build, target)

    def load(self, build: Build, built: Path) -> Engine:
        self.loaded += 1
        engine = super().load(build, built)
        engine.precision = self.loads_as or build.precision
        return engine


class Bench:
    """A store, a backend and the order of one small model."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = EngineStore(directory / "engines")
        self.backend = CountingBackend()
        self.judged = 0
        self.true = 0.0

    def order(self, precision: str) -> Build:
        model = self.directory / f"{precision}.onnx"
        added = numpy_helper.from_array(np.full(1, self.backend.error if precision == "bf16" else self.true, np.float32), "added")
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, "H", "W"]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Add", ["x", "added"], ["y"])], "small", values[:1], values[1:], [added])
        model.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
        assert onnx.load(str(model)).graph.node
        return Build("small", model, FEED, 1, 8, 8, precision, "latency", 1)

    def judge(self, reference: Engine, candidate: Engine) -> Parity:
        self.judged += 1
        image = np.full((1, 8, 8, 3), 100, np.uint8)
        score = float(np.abs(reference.infer({IMAGE: image})["y"] - candidate.infer({IMAGE: image})["y"]).max())
        return Parity(pictures="portraits", count=1, score=score, why=f"off by {score:.2f}" if score > ALLOWED else "")

    def open(self, precision: str = "auto", **changes: Any) -> Any:
        values: dict[str, Any] = {
            "model": "small@0", "recipe": "r", "pictures": "portraits", "backend": "onnxruntime", "backend_version": "1", "unit": "cpu",
            "device": "d",
            "shape": (1, 8, 8),
            "policy": "latency", "threads": 1,
        }  # fmt: skip
        return self.store.open(self.backend, Identity(precision=precision, **{**values, **changes}), self.order, self.judge)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_first_start_builds_and_judges_and_the_second_only_loads(bench: Bench) -> None:
    _, first = bench.open()
    assert bench.backend.built == ["bf16", "fp32"]
    bench.backend.built.clear()
    bench.backend.loaded = 0
    engine, second = bench.open()
    assert (bench.backend.built, bench.backend.loaded, bench.judged) == ([], 1, 1)
    assert engine.precision == "bf16"
    assert second == first
    assert sorted(path.suffix for path in bench.store.directory.iterdir()) == [".json", ".onnx"]


def test_the_passport_says_what_was_measured(bench: Bench) -> None:
    _, passport = bench.open()
    assert passport.parity is not None
    assert passport.parity.score == pytest.approx(0.1, abs=1e-3)
    assert 0 < passport.speed.p50_ms <= passport.speed.p90_ms <= passport.speed.p99_ms
    assert passport.speed.per_second > 0
    assert passport.build_s > 0
    assert bench.store.passports() == [passport]


def test_a_precision_whose_outputs_are_not_finite_gives_way_to_fp32(bench: Bench) -> None:
    bench.backend.error = np.inf
    engine, passport = bench.open()
    assert engine.precision == passport.precision == "fp32"
    assert "output 'y' holds NaN or infinity at bf16; try `engines.precision: fp32`" in passport.refused["bf16"].why


def test_a_model_whose_outputs_are_not_finite_at_fp32_either_leaves_no_file(bench: Bench) -> None:
    bench.backend.error = np.inf
    bench.true = np.inf
    with pytest.raises(NotFiniteError, match=r"small: output 'y' .* at fp32; check the card's mean and scale"):
        bench.open()
    assert list(bench.store.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "small@1"}, "model small@0, now small@1"),
        ({"recipe": "s"}, "recipe r, now s"),
        ({"build": "b"}, "build none, now b"),
        ({"backend_version": "2"}, "backend version 1, now 2"),
        ({"device": "another"}, "device d, now another"),
        ({"pictures": "none"}, "pictures portraits, now none"),
    ],
    ids=["model", "recipe", "build", "version", "device", "pictures"],
)
def test_a_stale_or_foreign_engine_is_rebuilt(bench: Bench, change: dict[str, str], told: str, caplog: pytest.LogCaptureFixture) -> None:
    _, stale = bench.open()
    bench.backend.built.clear()
    _, passport = bench.open(**change)
    assert bench.backend.built == ["bf16", "fp32"]
    assert change.items() <= passport.identity.model_dump().items()
    assert f"{stale.file} was built for something else ({told}); it is built again" in caplog.text
    assert len(bench.store.passports()) == 1


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("engine changed", ".onnx is damaged, it is not the file that its passport tells of; it is built again"),
        ("engine gone", ".onnx is gone; it is built again"),
        ("passport cut", ".json cannot be read"),
        ("passport with other keys", ".json cannot be read"),
    ],
)
def test_a_damaged_engine_is_rebuilt(bench: Bench, damage: str, told: str, caplog: pytest.LogCaptureFixture) -> None:
    _, passport = bench.open()
    file, sidecar = bench.store.directory / passport.file, next(bench.store.directory.glob("*.json"))
    if damage == "engine changed":
        file.write_bytes(file.read_bytes() + b"x")
    elif damage == "engine gone":
        file.unlink()
    elif damage == "passport cut":
        sidecar.write_bytes(sidecar.read_bytes()[:100])
    else:
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "more": 1}))
    bench.backend.built.clear()
    engine, _ = bench.open()
    assert bench.backend.built == ["bf16", "fp32"]
    assert told in caplog.text
    assert engine.infer({IMAGE: np.zeros((1, 8, 8, 3), np.uint8)})


def test_an_engine_that_the_runtime_rejects_is_rebuilt(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    _, passport = bench.open("fp32")
    (bench.store.directory / passport.file).write_bytes(b"nothing")
    sidecar = next(bench.store.directory.glob("*.json"))
    digest = hashlib.sha256(b"nothing").hexdigest()
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "file_sha256": digest}))
    bench.backend.built.clear()
    bench.open("fp32")
    assert bench.backend.built == ["fp32"]
    assert f"{passport.file} cannot be loaded and is built again" in caplog.text


def test_an_engine_that_computes_in_something_else_than_its_passport_says_is_rebuilt(bench: Bench) -> None:
    bench.open("fp32")
    sidecar = next(bench.store.directory.glob("*.json"))
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "precision": "bf16"}))
    bench.backend.built.clear()
    bench.backend.loads_as = "fp32"
    engine, passport = bench.open("fp32")
    assert bench.backend.built == ["fp32"]
    assert engine.precision == passport.precision == "fp32"


def test_changed_building_code_and_other_conversions_are_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "some_backend.py"
    file.write_text("class Some:\n    adds = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    backend = import_module("some_backend").Some()
    first = built_by(backend)
    file.write_text("# a remark\nclass Some:\n\n    adds = 1\n")
    building._read.cache_clear()
    assert built_by(backend) == first
    file.write_text("class Some:\n    adds = 1 + 10\n")
    building._read.cache_clear()
    assert built_by(backend) != first
    assert built_by(backend, ("onnx-from-tflite-1",)) != built_by(backend, ("onnx-from-tflite-2",))


def test_what_a_backend_imports_is_of_its_build() -> None:
    found: dict[str, str] = {}
    building._follow("engines.backends.onnxruntime", found)
    assert {"engines.backends.base", "engines.convert.onnx_input", "engines.convert.onnx_file"} < found.keys()
    assert all(found.values())


def test_auto_falls_back_to_fp32_and_keeps_the_figures(bench: Bench) -> None:
    bench.backend.error = 2.0
    engine, passport = bench.open()
    assert engine.precision == passport.precision == "fp32"
    assert passport.parity is None
    assert passport.refused["bf16"].why == "off by 2.00"
    bench.backend.built.clear()
    assert bench.open()[0].precision == "fp32"
    assert bench.backend.built == []


def test_a_named_precision_that_is_too_far_off_is_refused(bench: Bench) -> None:
    bench.backend.error = 2.0
    with pytest.raises(EngineError, match=r"bf16: off by 2\.00.*auto"):
        bench.open("bf16")
    assert list(bench.store.directory.iterdir()) == []


def test_a_precision_that_the_backend_lacks_is_told(bench: Bench) -> None:
    with pytest.raises(EngineError, match="has no int8 here; it has bf16, fp32"):
        bench.open("int8")


def test_different_wishes_are_kept_side_by_side(bench: Bench) -> None:
    bench.open("fp32")
    bench.open("auto")
    bench.backend.built.clear()
    assert bench.open("fp32")[0].precision == "fp32"
    assert bench.open("auto")[0].precision == "bf16"
    assert bench.backend.built == []


@pytest.mark.parametrize("step", ["build", "load", "measure"])
def test_too_little_memory_is_told_with_shape_and_batch(bench: Bench, step: str) -> None:
    """As OpenVINO says it, as Python does, and as numpy itself raises it for the pictures that are measured with."""

    class Hungry(CountingBackend):
        def build(self, build: Build, target: Path) -> None:
            if step == "build":
                raise ModelFileError("small: OpenVINO cannot build fp32.onnx: std::bad_alloc. If the file is damaged, delete it")
            super().build(build, target)

        def load(self, build: Build, built: Path) -> Engine:
            if step == "load":
                raise MemoryError
            engine = super().load(build, built)
            if step == "measure":
                engine.inputs = (TensorSpec(IMAGE, "uint8", (1 << 20, 1 << 15, 1 << 15, 3)),)
            return engine

    bench.backend = Hungry()
    with pytest.raises(TooLittleMemoryError, match=r"^small@0, 16x8, batch 4: too little memory: take a smaller shape or batch$"):
        bench.open("fp32", shape=(4, 8, 16))
    assert list(bench.store.directory.iterdir()) == []


def test_a_failure_of_one_of_several_callers_is_told(bench: Bench) -> None:
    engine, _ = bench.open("fp32")
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        per_second(engine, 0.01)
