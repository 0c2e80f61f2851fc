"""Models that run and would answer wrongly: a batch that was fixed within, whole numbers for scores, weights that are NaN; and an If."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from agent.cli import app

pytestmark = pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
SIDE = 16


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Any]:
    settings = tmp_path / "almena.yaml"
    settings.write_text(f"state_dir: {tmp_path / 'state'}\n")
    return lambda *arguments: CliRunner().invoke(app, ["build", *map(str, arguments), "-c", str(settings), "--precision", "fp32"])


def classifier(path: Path, *end: Any, whole: bool = False, damaged: bool = False, batch: int | str = "N") -> Path:
    """Of pictures of 16x16 in four classes: a convolution `c` (N, 4, 16, 16), and whatever `end` makes `y` of it with."""
    weights = np.random.default_rng(3).normal(0, 0.1, (4, 3, 3, 3)).astype(np.float32)
    if damaged:
        weights[0, 0, 0, 0] = np.nan
    constants = {"w": weights, "one at a time": np.array([1, 4, -1]), "truth": np.array(True)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        *(helper.make_node(kind, *rest, **more) for kind, *rest, more in end),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.INT64 if whole else TensorProto.FLOAT, [batch, 1 if whole else 4])
    graph = helper.make_graph(
        nodes, "odd", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, SIDE, SIDE])], [output],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )  # fmt: skip
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    return path


POOLED: list[Any] = [("GlobalAveragePool", ["c"], ["p"], {}), ("Flatten", ["p"], ["y"], {})]


def test_a_model_that_was_exported_for_one_picture_at_a_time_is_not_run_with_several(build: Any, tmp_path: Path, backend: str) -> None:
    ends = [("Reshape", ["c", "one at a time"], ["f"], {}), ("ReduceMean", ["f"], ["y"], {"axes": [2], "keepdims": 0})]
    model = classifier(tmp_path / "traced.onnx", *ends, batch=1)
    assert build(model, "--backend", backend).exit_code == 0
    result = build(model, "--backend", backend, "--batch", "4")
    told = " ".join(result.output.split())
    assert (result.exit_code, "output 'y' has 1 row(s) for 4 pictures" in told, "with a batch of 1" in told) == (1, True, True)
    assert build(classifier(tmp_path / "free.onnx", *POOLED), "--backend", backend, "--batch", "4").exit_code == 0


def test_whole_numbers_are_no_scores(build: Any, tmp_path: Path, backend: str) -> None:
    ends = [("GlobalAveragePool", ["c"], ["p"], {}), ("Flatten", ["p"], ["l"], {}), ("ArgMax", ["l"], ["y"], {"axis": 1})]
    result = build(classifier(tmp_path / "chosen.onnx", *ends, whole=True), "--backend", backend)
    assert (result.exit_code, "output 'y' holds int64 numbers, not scores" in " ".join(result.output.split())) == (1, True)


def test_weights_that_are_no_numbers_are_named(build: Any, tmp_path: Path, backend: str) -> None:
    rectified = [("Relu", ["c"], ["r"], {}), ("GlobalAveragePool", ["r"], ["p"], {}), ("Flatten", ["p"], ["y"], {})]
    result = build(classifier(tmp_path / "diverged.onnx", *rectified, damaged=True), "--backend", backend)
    assert (result.exit_code, "the weight 'w' holds NaN" in " ".join(result.output.split())) == (1, True)


def test_a_body_that_sees_the_names_around_it_is_run(build: Any, tmp_path: Path, backend: str) -> None:
    def body(name: str, kind: str) -> GraphProto:
        nodes = [helper.make_node("GlobalAveragePool", ["x"], [f"{name} mean"]), helper.make_node(kind, [f"{name} mean"], [name])]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    branches = {"then_branch": body("then", "Identity"), "else_branch": body("else", "Neg")}
    ends = [
        ("If", ["truth"], ["m"], branches),
        ("ReduceSum", ["m"], ["s"], {"keepdims": 1}),
        ("GlobalAveragePool", ["c"], ["p"], {}),
        ("Add", ["p", "s"], ["q"], {}),
        ("Flatten", ["q"], ["y"], {}),
    ]
    result = build(classifier(tmp_path / "branching.onnx", *ends), "--backend", backend)
    assert result.exit_code == 0, result.output
