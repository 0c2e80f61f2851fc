"""Operators that a runtime does not have are told with the nodes that need them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from engines.backends.base import IMAGE, Backend, Build
from engines.backends.onnxruntime import OnnxRuntimeBackend
from engines.backends.openvino import OpenVinoBackend
from engines.card import ModelInput
from engines.convert.onnx_operators import unsupported
from engines.errors import EngineError, ModelFileError, UnsupportedOperatorError

pytestmark = pytest.mark.unit

FEED = ModelInput(layout="NCHW", colour="BGR", sizes=((8, 8),), resize="letterbox")


def conjure(*names: str) -> list[NodeProto]:
    """A chain from x to y of nodes with an operator that nobody has."""
    values = ["x", *(f"t{number}" for number in range(1, len(names))), "y"]
    made = zip(values, values[1:], names, strict=False)
    return [helper.make_node("Conjure", [before], [after], name=name, domain="magic") for before, after, name in made]


def file(path: Path, nodes: list[NodeProto]) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, "H", "W"]) for name in ("x", "y")]
    true = numpy_helper.from_array(np.array(True), "true")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("magic", 1)]
    model = helper.make_model(helper.make_graph(nodes, "odd", values[:1], values[1:], [true]), opset_imports=opsets, ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("backend", [OnnxRuntimeBackend(), OpenVinoBackend()], ids=lambda one: one.name)
@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("layer4/spell",), "node 'layer4/spell' (magic.Conjure). Choose"),
        (("", ""), "the node that makes 't1' (magic.Conjure); the node that makes 'y' (magic.Conjure). Choose"),
        (("a", "b", "c", "d", "e"), "node 'c' (magic.Conjure) and 2 more. Choose"),
    ],
    ids=["named", "without names", "many"],
)
def test_the_node_is_named(tmp_path: Path, backend: Backend, names: tuple[str, ...], told: str) -> None:
    order = Build("parts 8x8", file(tmp_path / "odd.onnx", conjure(*names)), FEED, 1, 8, 8, "fp32", "latency", 1, outputs=("y",))
    with pytest.raises(UnsupportedOperatorError) as caught:
        backend.build(order, tmp_path / "built")
    assert "has no operator magic.Conjure for odd.onnx, which it needs at" in str(caught.value)
    assert told in str(caught.value)
    assert str(caught.value).startswith("parts 8x8: ")


@pytest.mark.parametrize("backend", [OnnxRuntimeBackend(), OpenVinoBackend()], ids=lambda one: one.name)
def test_an_operator_whose_name_is_damaged_is_told(tmp_path: Path, backend: Backend) -> None:
    path = file(tmp_path / "odd.onnx", [helper.make_node("Softsign", ["x"], ["y"])])
    path.write_bytes(path.read_bytes().replace(b"Softsign", b"Soft\x87ign"))
    order = Build("parts 8x8", path, FEED, 1, 8, 8, "fp32", "latency", 1, outputs=("y",))
    with pytest.raises(ModelFileError, match=r"parts 8x8: .*odd\.onnx"):
        backend.build(order, tmp_path / "built")


def test_a_model_for_one_picture_that_gets_several_is_told_as_such(tmp_path: Path) -> None:
    """ONNX Runtime sees it at the first call."""
    one = helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.array([1, 3, 8, 8], np.int64)))
    path = file(tmp_path / "fixed.onnx", [one, helper.make_node("Reshape", ["x", "one"], ["y"])])
    order = Build("parts 8x8", path, FEED, 4, 8, 8, "fp32", "latency", 1, outputs=("y",))
    backend = OnnxRuntimeBackend()
    backend.build(order, tmp_path / "built")
    with closing(backend.load(order, tmp_path / "built")) as engine, pytest.raises(EngineError, match="run it with a batch of 1"):
        engine.infer({IMAGE: np.zeros((4, 8, 8, 3), np.uint8)})


def test_a_node_within_another_is_found(tmp_path: Path) -> None:
    shape = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    inner = helper.make_graph(conjure("inner"), "then", [], [shape])
    path = file(tmp_path / "branch.onnx", [helper.make_node("If", ["true"], ["y"], then_branch=inner, else_branch=inner)])
    error = RuntimeError("Could not find an implementation for magic:Conjure(1) node with name 'inner'")
    assert "node 'inner'" in str(unsupported(error, "parts", "ONNX Runtime", path))


def test_of_other_errors_and_files_nothing_is_made_up(tmp_path: Path) -> None:
    assert unsupported(RuntimeError("the shapes differ"), "parts", "OpenVINO", tmp_path / "parts.onnx") is None
    told = str(
        unsupported(RuntimeError("No conversion rule found for operations: Conjure-17\n"), "parts", "OpenVINO", tmp_path / "p.tflite")
    )
    assert "has no operator Conjure for p.tflite. Choose" in told
