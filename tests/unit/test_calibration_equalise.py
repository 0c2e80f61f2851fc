"""Channels of like size: the model computes the same, and 8 bits serve it better."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.equalise import MOST, equalise
from calibration.noise import outputs, raw_noise
from calibration.quantise import Quantiser
from calibration.ranges import peaks

pytestmark = pytest.mark.unit
LARGE = 16.0


def model(outlier: float) -> Any:
    """A convolution, a depthwise one, and a sum of two that a transposed one reads; the first's channel 0 is `outlier` times larger."""
    random = np.random.default_rng(4)
    shapes = {"w0": (6, 3, 3, 3), "w1": (6, 1, 3, 3), "w2": (4, 6, 1, 1), "w3": (4, 4, 1, 1), "w4": (4, 2, 2, 2)}
    weights = {name: random.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    weights["w0"][0] *= outlier
    weights["w1"][0] /= outlier
    weights |= {f"b{name[1]}": random.normal(0, 0.1, shape[1 if name == "w4" else 0]).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["ar"], "relu"),
        helper.make_node("Conv", ["ar", "w1", "b1"], ["d"], "depthwise", pads=[1] * 4, group=6),
        helper.make_node("Relu", ["d"], ["dr"], "relu-d"),
        helper.make_node("Conv", ["dr", "w2", "b2"], ["p"], "point"),
        helper.make_node("Conv", ["p", "w3", "b3"], ["q"], "branch"),
        helper.make_node("Add", ["p", "q"], ["s"], "sum"),
        helper.make_node("ConvTranspose", ["s", "w4", "b4"], ["y"], "up", strides=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes, "channels",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 24, 24])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples() -> list[Any]:
    return list(np.random.default_rng(5).normal(0, 1, (8, 1, 3, 12, 12)).astype(np.float32))


def test_channels_become_alike_and_the_outputs_stay() -> None:
    made = model(LARGE)
    before, reference = peaks(made, samples(), lambda done, total: None), outputs(made, samples())
    equalise(made, before)
    after = peaks(made, samples(), lambda done, total: None)
    assert raw_noise(reference, outputs(made, samples())) < 1e-9
    assert before["ar"].max() / np.sort(before["ar"])[-2] > MOST > after["ar"].max() / np.sort(after["ar"])[-2]
    assert after["y"] == pytest.approx(before["y"], rel=1e-3)


def test_what_other_operators_touch_is_left_alone() -> None:
    made = model(LARGE)
    relu = next(node for node in made.graph.node if node.name == "relu")
    relu.op_type = "Sigmoid"
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    equalise(made, peaks(made, samples(), lambda done, total: None))
    same = {one.name: one.raw_data == other.raw_data for one, other in zip(made.graph.initializer, copy.graph.initializer, strict=True)}
    assert same["w0"]
    assert not same["w2"]


def test_an_outlier_costs_int8_little(tmp_path: Any) -> None:
    noises = []
    for outlier in (LARGE, 1.0):
        onnx.save(model(outlier), str(tmp_path / "channels.onnx"))
        quantiser = Quantiser(tmp_path / "channels.onnx", "channels")
        reference = outputs(quantiser.model, samples())
        quantiser.observe(samples())
        noises.append(raw_noise(reference, outputs(quantiser.quantised("u8s8", "minmax"), samples())))
    assert noises[0] < 4 * noises[1]
