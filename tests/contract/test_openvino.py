"""OpenVINO beyond the suite of all backends: a free batch, and how Intel's GPUs and NPUs are asked, which are not run here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.backends.openvino import OpenVinoBackend
from tests.contract.test_engines_backends import opened, order, small, takes_two_to_four

ABLE = {"CPU": ["FP32", "BF16", "INT8"], "GPU": ["FP32", "FP16", "INT8"], "NPU": ["FP16", "INT8"]}


class ThreeDevices:
    """What OpenVINO says on a machine with a GPU and an NPU. Models are compiled for the CPU, and it is noted for what they were meant."""

    def __init__(self, core: Any) -> None:
        self._core = core
        self.available_devices = ["CPU", "GPU.0", "NPU"]
        self.read_model = core.read_model
        self.compiled: list[tuple[str, dict[str, Any]]] = []

    def get_property(self, device: str, name: str) -> Any:
        return ABLE[device] if name == "OPTIMIZATION_CAPABILITIES" else f"Simulated {device}"

    def compile_model(self, model: Any, device: str, config: dict[str, Any]) -> Any:
        assert all(shape.is_static for shape in (port.get_partial_shape() for port in model.inputs)), "an NPU needs static shapes"
        self.compiled.append((device, config))
        return SimpleNamespace(export_model=lambda: SimpleNamespace(getvalue=lambda: b"exported"))


@pytest.fixture
def three() -> OpenVinoBackend:
    backend = OpenVinoBackend()
    backend.core = ThreeDevices(backend.core)
    return backend


def test_units_and_their_precisions(three: OpenVinoBackend) -> None:
    assert three.units() == ("cpu", "gpu", "npu")
    assert three.missing() == {}
    assert {unit: three.precisions(unit) for unit in three.units()} == {
        "cpu": ("int8", "bf16", "fp32"), "gpu": ("int8", "fp16", "fp32"), "npu": ("int8", "fp16", "fp32"),
    }  # fmt: skip
    assert set(OpenVinoBackend().missing()) == {"gpu", "npu"} - set(OpenVinoBackend().units())


@pytest.mark.parametrize(
    ("unit", "precision", "device", "config"),
    [
        ("gpu", "fp16", "GPU", {"INFERENCE_PRECISION_HINT": "f16", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "2"}),
        ("gpu", "int8", "GPU", {"INFERENCE_PRECISION_HINT": "f16", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "2"}),
        ("npu", "fp16", "NPU", {"INFERENCE_PRECISION_HINT": "f16", "PERFORMANCE_HINT": "LATENCY"}),
        ("npu", "fp32", "CPU", {
            "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 3, "NUM_STREAMS": "2",
        }),
    ],
)  # fmt: skip
def test_what_devices_are_asked(
    three: OpenVinoBackend, tmp_path: Path, unit: str, precision: str, device: str, config: dict[str, Any]
) -> None:
    build = order(small(tmp_path / "small.onnx"), three, unit=unit, precision=precision, policy="latency", threads=3, streams=2)
    three.build(build, tmp_path / "built.blob")
    assert three.core.compiled == [(device, config)]


def test_a_free_batch_is_bounded(tmp_path: Path) -> None:
    backend = OpenVinoBackend()
    with opened(backend, order(small(tmp_path / "small.onnx"), backend, batch=4, least=2), tmp_path) as engine:
        takes_two_to_four(engine, "small: OpenVINO failed")
