"""Pictures side by side as groups of channels: the same numbers, and only where it pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calibration.quantise import Quantiser
from engines.backends.base import IMAGE, Build
from engines.backends.openvino import OpenVinoBackend
from engines.card import ModelInput
from engines.convert.onnx_stacking import stacked

pytestmark = pytest.mark.unit
SIDE = 16
FEED = ModelInput(layout="NCHW", colour="GREY", sizes=((SIDE, SIDE),), mean=(0.0,), scale=(255.0,), resize="stretch")
PLAIN = ("Conv", "Relu", "MaxPool", "Conv", "Relu", "MaxPool")


def network(path: Path, kinds: tuple[str, ...] = PLAIN, channels: int = 8) -> Path:
    """A network of those layers, `channels` wide, with a dense layer behind it that sees the rows in their own order."""
    rng = np.random.default_rng(3)
    nodes, weights, before, inputs, side = [], [], "x", 1, SIDE
    for number, kind in enumerate(kinds):
        behind = f"{kind}_{number}"
        if kind == "Conv":
            w = rng.normal(0, 0.5, (channels, inputs, 3, 3)).astype(np.float32)
            weights += [numpy_helper.from_array(w, f"w{number}"), numpy_helper.from_array(w[:, 0, 0, 0].copy(), f"b{number}")]
            nodes.append(helper.make_node(kind, [before, f"w{number}", f"b{number}"], [behind], pads=[1, 1, 1, 1]))
            inputs = channels
        elif kind == "MaxPool":
            nodes.append(helper.make_node(kind, [before], [behind], kernel_shape=[2, 2], strides=[2, 2]))
            side //= 2
        elif kind == "Add":
            nodes.append(helper.make_node(kind, [before, nodes[-2].output[0]], [behind]))
        else:
            nodes.append(helper.make_node(kind, [before], [behind]))
        before = behind
    dense = rng.normal(0, 0.1, (side * side * channels, 3)).astype(np.float32)
    weights += [numpy_helper.from_array(dense, "dense"), numpy_helper.from_array(np.array([0, side * side * channels], np.int64), "flat")]
    nodes += [
        helper.make_node("Transpose", [before], ["rows"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["rows", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "dense"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "small", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def quantised(path: Path) -> Path:
    quantiser = Quantiser(path, "small")
    quantiser.observe([picture[None, None].astype(np.float32) / 255 for picture in pictures(6)[..., 0]])
    target = path.with_suffix(".int8.onnx")
    onnx.save(quantiser.quantised("u8s8", "minmax"), target)
    return target


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (count, SIDE, SIDE, 1), np.uint8)


def answers(model: Any, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
    given = batch.transpose(0, 3, 1, 2).astype(np.float32) / 255
    found: NDArray[np.float32] = ort.InferenceSession(model).run(None, {"x": given})[0]
    return found


@pytest.mark.parametrize("together", [2, 4])
def test_every_number_stays_what_it_was(tmp_path: Path, together: int) -> None:
    file = quantised(network(tmp_path / "plain.onnx"))
    side_by_side = stacked(file, together)
    assert side_by_side is not None
    _, second = (node for node in onnx.load_from_string(side_by_side).graph.node if node.op_type == "Conv")
    assert helper.get_node_attr_value(second, "group") == together
    batch = pictures(8)
    apart = answers(str(file), batch)
    assert np.ptp(apart, axis=0).min() > 0.1
    np.testing.assert_allclose(answers(side_by_side, batch), apart, atol=1e-5)


def test_what_the_model_gives_out_keeps_its_shape(tmp_path: Path) -> None:
    """As class activation maps, which lie within the chain."""
    file = quantised(network(tmp_path / "plain.onnx"))
    model = onnx.load(str(file))
    inner = next(node.output[0] for node in model.graph.node if node.op_type == "MaxPool")
    model.graph.output.append(helper.make_tensor_value_info(inner, TensorProto.FLOAT, None))
    onnx.save(model, file)
    made = stacked(file, 4)
    assert made is not None
    given = {"x": pictures(4).transpose(0, 3, 1, 2).astype(np.float32) / 255}
    apart, together = (ort.InferenceSession(one).run(None, given) for one in (str(file), made))
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


@pytest.mark.parametrize(
    ("kinds", "channels"),
    [(PLAIN, 64), (("Conv", "Relu", "Conv", "Relu"), 8), (("Conv", "Relu", "Conv", "Relu", "Add", "MaxPool"), 8)],
    ids=["full vectors", "no pooling", "a branch before the pooling"],
)
def test_what_would_not_be_quicker_stays(tmp_path: Path, kinds: tuple[str, ...], channels: int) -> None:
    assert stacked(quantised(network(tmp_path / "other.onnx", kinds, channels)), 4) is None


def test_openvino_answers_alike_for_one_picture_and_for_two_or_four_side_by_side(tmp_path: Path) -> None:
    file = quantised(network(tmp_path / "plain.onnx"))
    backend, batch, found = OpenVinoBackend(), pictures(8), {}
    for size in (1, 2, 8):
        build = Build("small", file, FEED, size, SIDE, SIDE, "int8", "throughput", outputs=("y",))
        backend.build(build, tmp_path / f"{size}.blob")
        engine = backend.load(build, tmp_path / f"{size}.blob")
        found[size] = np.concatenate([engine.infer({IMAGE: batch[at : at + size]})["y"] for at in range(0, 8, size)])
        assert engine.precision == "int8"
        engine.close()
    for size in (2, 8):
        np.testing.assert_allclose(found[size], found[1], atol=1e-5)
