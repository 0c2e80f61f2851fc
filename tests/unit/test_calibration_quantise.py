"""Ranges, QDQ models, what runtimes ask of them, and which nodes hurt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.errors import CalibrationError
from calibration.noise import decibels, measure_of, outputs, raw_noise
from calibration.quantise import Quantiser
from calibration.ranges import HALF, Observed, chosen, observe
from calibration.rules import broken_rules
from calibration.samples import normalised
from calibration.sensitivity import sensitivities
from engines.calibrated import FLAVOURS
from engines.card import ModelInput
from engines.preprocess import fed
from engines.results import F32
from tests.fakes.classifier import SIDE, save_model, stripes

pytestmark = pytest.mark.unit
FEED = ModelInput(layout="NCHW", colour="GREY", sizes=((SIDE, SIDE),), mean=(128.0,), scale=(64.0,), resize="stretch")
KINDS = ("minmax", "percentile", "entropy")


def feeds(count: int, seed: int = 0) -> list[F32]:
    return [normalised(fed(picture, FEED, SIDE, SIDE), FEED) for picture in stripes(count, seed=seed)]


@pytest.fixture(scope="module")
def quantiser(tmp_path_factory: pytest.TempPathFactory) -> Quantiser:
    made = Quantiser(save_model(tmp_path_factory.mktemp("model") / "two-classes.onnx"), "two-classes")
    made.observe(feeds(8))
    return made


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("ranges", KINDS)
def test_both_flavours_are_near_the_float_model(quantiser: Quantiser, flavour: Any, ranges: Any) -> None:
    samples = feeds(4, seed=9)
    reference = outputs(quantiser.model, samples)
    made = quantiser.quantised(flavour, ranges)
    assert decibels(raw_noise(reference, outputs(made, samples))) > 15
    kinds = {node.op_type for node in made.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    types = {numpy_helper.to_array(w).dtype.name for w in made.graph.initializer}
    assert ("uint8" in types) == (flavour == "u8s8")
    assert ("int32" in types) == (flavour == "u8s8")


def test_weights_have_a_scale_for_each_channel(quantiser: Quantiser) -> None:
    made = quantiser.quantised("s8s8", "minmax")
    constants = {w.name: numpy_helper.to_array(w) for w in made.graph.initializer}
    makers = {node.output[0]: node for node in made.graph.node}
    conv = next(node for node in made.graph.node if node.name == "second")
    pair = makers[conv.input[1]]
    assert constants[pair.input[1]].shape == (8,)
    assert constants[pair.input[0]].dtype == np.int8


def test_pairs_stand_behind_activations_and_not_before_outputs(quantiser: Quantiser) -> None:
    for flavour in FLAVOURS:
        made = quantiser.quantised(flavour, "minmax")
        makers = {node.output[0]: node for node in made.graph.node}
        assert {makers[node.input[0]].op_type for node in made.graph.node if node.op_type == "Relu"} == {"Conv"}
        assert makers["y"].op_type == "Gemm"


def test_a_node_in_float_reads_and_weighs_in_float(quantiser: Quantiser) -> None:
    made = quantiser.quantised("u8s8", "minmax", ["second"])
    makers = {node.output[0]: node for node in made.graph.node}
    conv = next(node for node in made.graph.node if node.name == "second")
    assert makers[conv.input[0]].op_type == "Relu"
    assert all(name not in makers for name in conv.input[1:])
    samples = feeds(4, seed=9)
    everything = quantiser.quantised("u8s8", "minmax", quantiser.nodes)
    assert raw_noise(outputs(quantiser.model, samples), outputs(everything, samples)) < 1e-9
    assert not any(node.op_type == "QuantizeLinear" for node in everything.graph.node)


def spoilt(model: Any, change: Any) -> Any:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy)
    return copy


def replace(model: Any, name: str, values: np.ndarray[Any, Any]) -> None:
    constant = next(weight for weight in model.graph.initializer if weight.name == name)
    constant.CopyFrom(numpy_helper.from_array(values, name))


def first(model: Any, kind: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == kind)


def test_the_rules_see_what_runtimes_refuse(quantiser: Quantiser) -> None:
    made = quantiser.quantised("s8s8", "minmax")
    assert broken_rules(made, "s8s8") == []
    zero, scale = (first(made, "QuantizeLinear").input[index] for index in (2, 1))
    cases = {
        "zero point is 3, not 0": lambda m: replace(m, zero, np.array(3, np.int8)),
        "uint8, not int8": lambda m: replace(m, zero, np.array(0, np.uint8)),
        "not a positive constant": lambda m: replace(m, scale, np.array(0.0, np.float32)),
        "outside 13 to 21": lambda m: setattr(m.opset_import[0], "version", 11),
        "of domain com.microsoft": lambda m: setattr(first(m, "QuantizeLinear"), "domain", "com.microsoft"),
    }
    for what, change in cases.items():
        assert any(what in fault for fault in broken_rules(spoilt(made, change), "s8s8")), what
    assert any("quantised bias" in fault for fault in broken_rules(quantiser.quantised("u8s8", "minmax"), "s8s8"))

    def wrong_axis(model: Any) -> None:
        makers = {node.output[0]: node for node in model.graph.node}
        pair = makers[next(node for node in model.graph.node if node.name == "first").input[1]]
        next(attribute for attribute in pair.attribute if attribute.name == "axis").i = 1

    assert any("they belong along axis 0" in fault for fault in broken_rules(spoilt(made, wrong_axis), "s8s8"))


def test_ranges_of_known_values() -> None:
    values = np.random.default_rng(0).normal(0, 1, 1 << 16).astype(np.float32)
    values[0] = 100.0
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Relu", ["same"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, None])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    seen: list[tuple[int, int]] = []
    found = observe(model, [values[None, : 1 << 15], values[None, 1 << 15 :]], lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert set(found) == {"x", "same", "y"}
    assert chosen(found["x"], "minmax") == pytest.approx((values.min(), 100.0))
    low, high = chosen(found["x"], "percentile")
    assert -4.6 < low < -3.2
    assert 3.2 < high < 4.6
    assert found["x"].counts.sum() == 1 << 16
    assert chosen(found["x"], "entropy")[1] < 20
    assert chosen(found["y"], "entropy")[0] == 0.0


def test_a_tensor_of_zeros_has_an_empty_range() -> None:
    nothing = Observed(0.0, 0.0, np.zeros(2 * HALF, np.int64))
    assert {chosen(nothing, kind) for kind in KINDS} == {(0.0, 0.0)}  # type: ignore[arg-type]


def test_values_that_are_not_finite_name_model_and_tensor(tmp_path: Path) -> None:
    quantiser = Quantiser(save_model(tmp_path / "m.onnx"), "two-classes")
    bad = feeds(1)
    bad[0][0, 0, 3, 3] = np.nan
    with pytest.raises(CalibrationError, match="two-classes: tensor 'x' holds NaN or infinity at FP32 on sample 0"):
        quantiser.observe(bad)


def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(CalibrationError, match=r"two-classes: m\.onnx cannot be prepared"):
        Quantiser(tmp_path / "m.onnx", "two-classes")


def test_the_node_that_hurts_is_found(tmp_path: Path) -> None:
    quantiser = Quantiser(save_model(tmp_path / "m.onnx", spread=60.0), "two-classes")
    quantiser.observe(feeds(8))
    made = quantiser.quantised("u8s8", "minmax")
    samples = feeds(4, seed=9)
    table = sensitivities(quantiser.model, made, samples, raw_noise, 60.0)
    assert set(table) == {"first", "second", "pool", "last"}
    assert set(list(table)[:2]) == {"pool", "last"}
    assert list(table.values()) == sorted(table.values(), reverse=True)
    reference = outputs(quantiser.model, samples)
    noise = [raw_noise(reference, outputs(quantiser.quantised("u8s8", "minmax", list(table)[:count]), samples)) for count in (0, 2, 4)]
    assert noise[0] > 10 * noise[1]
    assert noise[1] > noise[2]


def test_the_time_for_nodes_is_bounded(quantiser: Quantiser) -> None:
    clock = iter(range(0, 1000, 10))
    table = sensitivities(
        quantiser.model, quantiser.quantised("u8s8", "minmax"), feeds(1), raw_noise, 25.0, clock=lambda: float(next(clock))
    )
    assert len(table) == 2


def test_noise_is_a_share_of_power() -> None:
    reference = [{"a": np.ones((1, 10), np.float32), "b": np.full((1, 2), 2, np.float32)}]
    candidate = [{"a": np.full((1, 10), 1.1, np.float32), "b": np.full((1, 2), 2, np.float32)}]
    assert raw_noise(reference, candidate) == pytest.approx(0.005, rel=1e-4)
    assert decibels(0.01) == 20.0
    assert decibels(0.0) == 200.0


def test_a_detectors_noise_counts_where_there_are_faces() -> None:
    from engines.card import card

    def maps(size: float, far: float) -> list[dict[str, F32]]:
        found = {name: np.zeros((1, count, 96, 160), np.float32) for name, count in (("537", 1), ("538", 2), ("539", 2), ("540", 10))}
        found["537"][0, 0, 10, 10] = 0.9
        found["538"][0, :, 10, 10] = size
        found["538"][0, :, 50, 50] = far
        return [found]

    measure = measure_of(card("centerface"))
    assert measure(maps(2.0, 0.0), maps(2.0, 3.0)) == 0.0
    assert measure(maps(2.0, 0.0), maps(2.1, 0.0)) > 1e-4
