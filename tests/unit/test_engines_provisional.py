"""Bare model files: what can be guessed of them, and what cannot."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from engines.card import ModelCard, card
from engines.convert.inspect import format_of
from engines.errors import FetchError, ModelFileError, said
from engines.fetch import several
from engines.files import sha256
from engines.provisional import provisional

pytestmark = pytest.mark.unit

Shape = list[Any]


def save(path: Path, inputs: dict[str, Shape], outputs: dict[str, Shape], dtype: int = TensorProto.FLOAT) -> Path:
    """An ONNX file of these inputs and outputs, whose operators do not matter."""
    values = [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    nodes = [helper.make_node("Identity", [next(iter(inputs))], [name]) for name in outputs]
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", values, results)).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("shape", "size", "layout", "colour", "found"),
    [
        ([1, 3, 24, 32], None, "NCHW", "RGB", (32, 24)),
        (["N", 24, 32, 3], None, "NHWC", "RGB", (32, 24)),
        (["N", 128, 128, 1], None, "NHWC", "GREY", (128, 128)),
        ([1, 1, "H", "W"], (64, 48), "NCHW", "GREY", (64, 48)),
        ([1, 3, 24, 32], (32, 24), "NCHW", "RGB", (32, 24)),
    ],
)
def test_layout_channels_and_size_are_seen(tmp_path: Path, shape: Shape, size: Any, layout: str, colour: str, found: Any) -> None:
    made = provisional(save(tmp_path / "My Model.onnx", {"x": shape}, {"y": [1, 4]}), size)
    assert (made.card.input.layout, made.card.input.colour, made.card.input.sizes) == (layout, colour, (found,))
    assert set(made.card.input.mean) == {0.0}
    assert set(made.card.input.scale) == {1.0}
    assert made.card.name == "my-model"
    assert made.card.labels == ("class-0", "class-1", "class-2", "class-3")
    assert made.card.sha256 == sha256(tmp_path / "My Model.onnx")
    assert any("no mean is taken off" in line for line in made.assumed)


def test_one_number_is_the_second_of_two_labels(tmp_path: Path) -> None:
    assert provisional(save(tmp_path / "m.onnx", {"x": [1, 8, 8, 1]}, {"y": ["N", 1]})).card.labels == ("negative", "positive")


def test_the_written_card_is_a_card(tmp_path: Path) -> None:
    made = provisional(save(tmp_path / "m.onnx", {"x": [1, 8, 8, 3]}, {"y": ["N", 5]}))
    (tmp_path / "m.yaml").write_text(made.as_yaml())
    assert card(str(tmp_path / "m.yaml")).model_dump() == made.card.model_dump()
    assert made.as_yaml().startswith("# A provisional card")


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (
            {"x": [1, 8, 8, 3], "mask": [1, 8]},
            {"y": [1, 4]},
            r"inputs 'x' float32 \(1, 8, 8, 3\), 'mask' float32 \(1, 8\), not one picture",
        ),
        ({"x": [1, 30]}, {"y": [1, 4]}, r"input.* 'x' float32 \(1, 30\), not one picture"),
        ({"x": ["N", "H", "W", 3]}, {"y": [1, 4]}, r"'x' \(free, free, free, 3\) leaves height or width free: give --shape"),
        ({"x": ["N", -8, 0, 3]}, {"y": [1, 4]}, r"'x' \(free, free, free, 3\) leaves height or width free: give --shape"),
        ({"x": [1, 8, 8, 3]}, {"y": [1, 3, 8, 8]}, r"outputs 'y' \(1, 3, 8, 8\); only .* one row of numbers .* write a card"),
        ({"x": [1, 8, 8, 3]}, {"y": [1, 0]}, r"outputs 'y' \(1, free\); only .* one row of numbers .* write a card"),
        ({"x": [1, 3, 8, 3]}, {"y": [1, 4]}, r"'x' .* no one dimension of 1 or 3 channels"),
        ({"x": [1, 8, 8, 4]}, {"y": [1, 4]}, r"'x' .* no one dimension of 1 or 3 channels"),
        (
            {"x": [1, 8, 8, 3]},
            {"boxes": [1, 9, 4], "scores": [1, "N"]},
            r"outputs 'boxes' \(1, 9, 4\), 'scores' \(1, free\).* write a card",
        ),
    ],
)
def test_what_cannot_be_guessed_is_told(tmp_path: Path, inputs: Any, outputs: Any, message: str) -> None:
    with pytest.raises(ModelFileError, match=r"m\.onnx.*" + message):
        provisional(save(tmp_path / "m.onnx", inputs, outputs))


def test_a_wrong_dtype_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"m\.onnx: input 'x' is float64, and what its numbers mean cannot be guessed"):
        provisional(save(tmp_path / "m.onnx", {"x": [1, 8, 8, 3]}, {"y": [1, 4]}, TensorProto.DOUBLE))


def test_a_size_that_the_model_does_not_take_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"'x' is \(1, 8, 8, 3\), which 16x8 pixels do not fit"):
        provisional(save(tmp_path / "m.onnx", {"x": [1, 8, 8, 3]}, {"y": [1, 4]}), (16, 8))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.onnx", b"\x18\x00\x00\x00TFL3 and more", "m.onnx is no onnx file: it looks like tflite"),
        ("m.tflite", b"PK\x03\x04....metadata.json", "m.tflite is no tflite file: it looks like keras"),
        ("m.keras", b"no model", "m.keras is no keras file: its first bytes are of something else"),
        ("m.h5", b"\x89HDF\r\n", r"m\.h5: known suffixes are .*Keras 2's HDF5.*save it as \.keras"),
        ("m.bin", b"\x18\x00\x00\x00TFL3", "It looks like tflite: give it that suffix"),
    ],
)
def test_a_wrong_extension_is_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        format_of(tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"no model at all", None])
def test_a_damaged_onnx_file_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = save(tmp_path / "m.onnx", {"x": [1, 8, 8, 3]}, {"y": [1, 4]})
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    with pytest.raises(ModelFileError, match=r"m\.onnx is not a valid ONNX file"):
        provisional(path)


def test_a_folder_without_a_saved_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no saved_model\.pb"):
        format_of(tmp_path)


def test_a_pipe_is_told_and_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(ModelFileError, match=r"pipe\.onnx is a device or a pipe"):
        format_of(tmp_path / "pipe.onnx")


def test_a_long_name_becomes_one_that_files_can_bear(tmp_path: Path) -> None:
    assert provisional(save(tmp_path / f"{'x' * 240}.onnx", {"x": [1, 8, 8, 3]}, {"y": ["N", 5]})).card.name == "x" * 64


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="there is no model file"):
        format_of(tmp_path / "none.onnx")


def test_an_openvino_model_without_its_weights_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_text("<?xml version='1.0'?><net/>")
    with pytest.raises(FetchError, match=r"m\.xml: its weights .*m\.bin are missing"):
        several(tmp_path / "m.xml")


def test_a_pair_and_a_folder_have_the_hash_of_what_is_kept(tmp_path: Path) -> None:
    from engines.fetch import ensure

    pair = tmp_path / "pair"
    pair.mkdir()
    (pair / "net.xml").write_text("<?xml version='1.0'?><net/>")
    (pair / "net.bin").write_bytes(b"weights")
    shutil.copytree(pair, tmp_path / "kept")
    (tmp_path / "kept" / "net.xml").rename(tmp_path / "kept" / "model.xml")
    (tmp_path / "kept" / "net.bin").rename(tmp_path / "kept" / "model.bin")
    raw = provisional_card(pair / "net.xml", sha256(tmp_path / "kept"))
    got = ensure(raw, tmp_path / "models")
    assert sorted(path.name for path in got.iterdir()) == ["model.bin", "model.xml"]
    assert ensure(raw, tmp_path / "models") == got


def provisional_card(path: Path, digest: str) -> ModelCard:
    source = yaml.safe_load(f"kind: local\npath: {path}")
    raw = card("centerface").model_dump(mode="json") | {"source": source, "sha256": digest, "format": "openvino", "converter": None}
    return ModelCard.model_validate(raw)


def test_weights_in_another_file_are_told(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", {"x": [1, 8, 8, 3]}, {"y": [1, 4]})
    model = onnx.load(str(path))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(64, np.float32), "kernel"))
    onnx.save_model(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    with pytest.raises(ModelFileError, match=r"m\.onnx: the weight 'kernel' lies outside of it, in 'm\.bin'.*one file"):
        provisional(path)


def test_what_runtimes_say_is_kept_without_the_places_in_their_sources() -> None:
    message = """Exception from src/inference/src/cpp/core.cpp:84:
Check 'false' failed at src/frontends/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
-- No conversion rule found for operations: Conjure"""
    assert said(RuntimeError(message)) == "-- No conversion rule found for operations: Conjure"
    message = (
        "[ONNXRuntimeError] : 1 : FAIL : /source/onnxruntime/core/graph/load.h:46 void ort::Check(const std::string&, int) Opset 99 is new"
    )
    assert said(RuntimeError(message)) == "Opset 99 is new"
    assert len(said(RuntimeError("x" * 5000))) == 400
