"""ONNX Runtime's quantised models, and what its providers of GPUs are given. Those providers are not run: there is no GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.backends import onnxruntime as backend_module
from engines.backends.base import IMAGE, Backend
from engines.backends.cuda import Gpu
from engines.backends.onnxruntime import OnnxRuntimeBackend, OnnxRuntimeEngine
from engines.backends.openvino import OpenVinoBackend
from engines.base import EngineError
from engines.card import card
from engines.model import EngineOptions, Workshop
from tests.contract.test_engines_backends import FEED, HEIGHT, WEIGHTS, WIDTH, convolved, normalised, opened, order, picture, save, small

H100 = Gpu("NVIDIA H100", (9, 0), 13000)


def qdq(path: Path, whole: bool = True) -> Path:
    """A convolution in u8s8. Not `whole`: nothing quantises its output, so that no operator of integers can be made of it."""
    scale = float(np.abs(WEIGHTS).max() / 127)
    weights = [
        numpy_helper.from_array(np.round(WEIGHTS / scale).astype(np.int8), "w"), numpy_helper.from_array(np.float32(scale), "ws"),
        numpy_helper.from_array(np.int8(0), "wz"), numpy_helper.from_array(np.float32(1.0), "s"),
        numpy_helper.from_array(np.uint8(128), "z"),
    ]  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("Conv", ["d", "wd"], ["y" if whole else "maps"], pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    if whole:
        nodes += [
            helper.make_node("QuantizeLinear", ["y", "s", "z"], ["yq"]),
            helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["maps"]),
        ]
    return save(path, nodes, weights, {"maps": 4}, ["N", 3, "H", "W"])


@pytest.mark.parametrize("asked", ["int8", "fp32"])
@pytest.mark.parametrize("whole", [True, False])
def test_int8_is_read_back_from_the_graph(tmp_path: Path, whole: bool, asked: str) -> None:
    backend = OnnxRuntimeBackend()
    with opened(backend, order(qdq(tmp_path / "qdq.onnx", whole), backend, precision=asked), tmp_path) as engine:
        assert engine.precision == ("int8" if whole else "fp32")
        exact = convolved(normalised(picture()))
        np.testing.assert_allclose(engine.infer({IMAGE: picture()})["maps"], exact.clip(-128, 127) if whole else exact, atol=12.0)


@pytest.mark.parametrize(("allowed", "precision"), [(("int8", "fp16"), "int8"), (("fp16",), "fp16"), (("bf16",), "bf16"), ((), "fp32")])
def test_what_the_tensorrt_provider_is_allowed_is_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: tuple[str, ...], precision: str
) -> None:
    """What was wished does not count. The session is the CPU's, and tells the options that a session of the provider would."""
    model = small(tmp_path / "small.onnx")
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    in_force = {"TensorrtExecutionProvider": {f"trt_{name}_enable": "1" for name in allowed}}
    monkeypatch.setattr(session, "get_provider_options", lambda: in_force)
    build = order(model, OnnxRuntimeBackend(), unit="tensorrt", precision="int8")
    assert OnnxRuntimeEngine(build, session, 1).precision == precision


@pytest.mark.parametrize("backend", [OnnxRuntimeBackend, OpenVinoBackend])
def test_a_float_file_is_not_int8_because_it_was_asked_for(tmp_path: Path, backend: type[Backend]) -> None:
    order_ = order(small(tmp_path / "small.onnx"), backend(), precision="int8")
    with opened(backend(), order_, tmp_path) as engine:
        assert engine.precision == "fp32"


def test_a_free_batch(tmp_path: Path) -> None:
    backend = OnnxRuntimeBackend()
    with opened(backend, order(small(tmp_path / "small.onnx"), backend, batch=4, least=1), tmp_path) as engine:
        assert engine.inputs[0].shape == (None, HEIGHT, WIDTH, 3)
        for count in (1, 4):
            np.testing.assert_allclose(
                engine.infer({IMAGE: picture(batch=count)})["same"], normalised(picture(batch=count)), rtol=1e-5, atol=1e-4
            )


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> OnnxRuntimeBackend:
    monkeypatch.setattr(backend_module, "gpus", lambda: (H100,))
    return OnnxRuntimeBackend()


def test_units_are_those_that_can_work(with_gpu: OnnxRuntimeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_gpu.units() == ("cpu",)
    assert "no CUDAExecutionProvider" in with_gpu.missing()["cuda"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(backend_module._PROVIDERS.values()))
    assert "libcudnn" in with_gpu.missing()["cuda"]
    assert "libnvinfer" in with_gpu.missing()["tensorrt"]
    monkeypatch.setattr(backend_module, "_loadable", lambda library: True)
    assert with_gpu.units() == ("tensorrt", "cuda", "cpu")
    monkeypatch.setattr(backend_module, "gpus", lambda: ())
    assert with_gpu.units() == ("cpu",)


def test_what_tensorrt_is_given(with_gpu: OnnxRuntimeBackend, tmp_path: Path) -> None:
    model = small(tmp_path / "small.onnx")
    build = order(model, with_gpu, unit="tensorrt", precision="int8", batch=8, least=1)
    given = with_gpu.options(build, model)
    switched = {name for name, value in given.items() if value == "1"}
    assert switched == {"trt_engine_cache_enable", "trt_timing_cache_enable", "trt_int8_enable", "trt_fp16_enable"}
    assert given["trt_profile_max_shapes"] == f"image:8x{HEIGHT}x{WIDTH}x3"
    assert given["trt_profile_min_shapes"] == f"image:1x{HEIGHT}x{WIDTH}x3"
    assert given["trt_engine_cache_path"] == given["trt_timing_cache_path"]
    other = with_gpu.options(order(model, with_gpu, unit="tensorrt", precision="fp16"), model)
    assert other["trt_engine_cache_path"] != given["trt_engine_cache_path"]
    assert "trt_profile_min_shapes" not in other
    assert with_gpu.options(order(model, with_gpu, unit="cuda"), model) == {"use_tf32": "0"}


def test_devices_and_flavours(with_gpu: OnnxRuntimeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_gpu.device("cuda") == str(H100)
    assert with_gpu.device("tensorrt").startswith(f"{H100}, TensorRT ")
    for unit in ("cpu", "cuda", "tensorrt"):
        assert with_gpu.precisions(unit)[-1] == "fp32"
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert [with_gpu.flavour_on(unit) for unit in ("cpu", "tensorrt")] == ["u8s8", "s8s8"]
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert with_gpu.flavour_on("cpu") == "s8s8"


def test_falling_back_to_another_provider_is_an_error(with_gpu: OnnxRuntimeBackend, tmp_path: Path) -> None:
    """This package has no CUDA provider; ONNX Runtime itself would only warn and run on the CPU."""
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(EngineError, match="not on CUDAExecutionProvider"):
        with_gpu.build(order(small(tmp_path / "small.onnx"), with_gpu, unit="cuda"), tmp_path / "built.onnx")


def test_cuda_computes_in_the_types_of_the_file(with_gpu: OnnxRuntimeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeBackend, "_session", lambda *arguments: None)
    with_gpu.build(order(small(tmp_path / "small.onnx"), with_gpu, unit="cuda", precision="fp16"), tmp_path / "built.onnx")
    built = onnx.load(str(tmp_path / "built.onnx"))
    assert TensorProto.FLOAT16 in {weight.data_type for weight in built.graph.initializer}
    assert [prop.value for prop in built.metadata_props if prop.key == "almena_precision"] == ["fp16"]
    session = ort.InferenceSession(built.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["maps"], {IMAGE: picture()})[0], convolved(normalised(picture(), FEED)), atol=0.1)


def test_a_backend_without_a_device_is_told(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeBackend, "units", lambda self: ())
    with pytest.raises(EngineError, match="centerface: onnxruntime finds nothing here"):
        Workshop(card("centerface"), EngineOptions(models_dir, tmp_path, backend="onnxruntime"))
