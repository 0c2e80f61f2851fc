"""TensorRT without a GPU: against the interfaces of its real versions, and on a simulated device that demands what the manual does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from engines.backends import trtexec
from engines.backends.base import IMAGE
from engines.backends.onnxruntime import OnnxRuntimeBackend
from engines.base import EngineError
from engines.convert.onnx_floats import in_halves
from engines.convert.onnx_input import NORMALISED, with_picture_input
from engines.errors import ModelFileError
from tests.contract.test_engines_backends import WEIGHTS, convolved, normalised, opened, order, picture, save, small, takes_two_to_four
from tests.fakes.nvidia_packages import CUDA_LIBRARY, CUDA_PYTHON, PATHFINDER, PYTHON, VERSIONS, bindings, unpacked
from tests.fakes.tensorrt_here import Simulation, tensorrt_here

ROOT = Path(__file__).parents[2]

REAL = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import tensorrt_bindings
sys.modules["tensorrt"] = tensorrt_bindings
from pathlib import Path
from engines.backends import tensorrt, trt_build, trt_engine
from engines.backends.base import Build
from engines.base import EngineError
from engines.card import ModelInput

backend = tensorrt.TensorRtBackend()
print(backend.version())
feed = ModelInput(layout="NCHW", colour="RGB", sizes=((8, 8),), resize="letterbox")
for precision in ("fp32", "fp16", "int8"):
    order = Build("small", Path("small.onnx"), feed, 1, 8, 8, precision, "latency", unit="gpu")
    print(trt_build.weakly_typed(order), trt_build._network_flags(order))
for step in (trt_build.new_builder, lambda: tensorrt.trt.Runtime(trt_build.LOG)):
    try:
        step()
        print("started")
    except (EngineError, TypeError) as error:
        print(error)
assert isinstance(trt_build.LOG, tensorrt_bindings.ILogger)
trt_build.LOG.log(tensorrt_bindings.ILogger.Severity.ERROR, "told")
assert trt_build.LOG.errors() == "told"
print(tensorrt_bindings.nptype(tensorrt_bindings.DataType.UINT8).__name__)
"""
TYPING = {
    "8": [(True, 1), (True, 1), (True, 1)],
    "10": [(True, 1), (True, 1), (False, 3)],
    "11": [(False, 1), (False, 1), (False, 1)],
}
"""By major version, for fp32, fp16 and int8: whether flags set the precision, and the flags of the network."""

CALLS = """
import sys
sys.path.insert(0, {root!r})
import json
from engines.backends.cuda import Cuda, Library, cuda
from engines.errors import EngineError

found = cuda()
said = {{"from": type(found._runtime).__name__}}
steps = {{
    "free_memory": lambda: found.free_memory(), "allocate": lambda: found.allocate(16), "free": lambda: found.free(4096),
    "pinned": lambda: found.pinned(16), "stream": lambda: found.stream(), "synchronise": lambda: found.synchronise(1),
    "to_device": lambda: found.to_device(4096, 8192, 16, 1), "to_host": lambda: found.to_host(4096, 8192, 16, 1),
    "captured": lambda: found.captured(1, lambda: None), "launch": lambda: found.launch(1, 1),
    "destroy_graph": lambda: found.destroy_graph(1), "destroy_stream": lambda: found.destroy_stream(1),
}}
for name, step in steps.items():
    try:
        step()
        said[name] = "no error"
    except EngineError as error:
        said[name] = str(error)
for name in ("cudaStreamEndCapture", "cudaGraphInstantiateWithFlags", "cudaGraphDestroy"):
    said[name] = len(getattr(found._runtime, name)(*((1, 0) if "Inst" in name else (1,))))
print(json.dumps(said))
"""


@pytest.fixture(params=VERSIONS)
def here(request: pytest.FixtureRequest, cache_dir: Path) -> Iterator[Simulation]:
    with tensorrt_here(request.param, cache_dir) as simulation:
        yield simulation
        assert simulation.cuda.held() == 0, "every engine gives back what it took"


def names(here: Simulation) -> list[str]:
    return [f"{kind}.{name}" for kind, name, _ in here.tensorrt.calls]


def argument(here: Simulation, kind: str, name: str) -> list[Any]:
    return [arguments[0] for klass, call, arguments in here.tensorrt.calls if (klass, call) == (kind, name)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_real_bindings_take_what_the_backend_gives(version: str, cache_dir: Path) -> None:
    said = bindings(version, cache_dir, REAL).splitlines()
    assert said[0] == version
    assert said[1:4] == [f"{weak} {flags}" for weak, flags in TYPING[version.partition(".")[0]]]
    assert "does not start" in said[4]
    assert "factory function returned nullptr" in said[5]
    assert said[6] == "uint8"


@pytest.mark.parametrize(
    "package", [*(f"cuda-bindings=={version}" for version in CUDA_PYTHON if PYTHON in CUDA_PYTHON[version]), *CUDA_LIBRARY]
)
def test_real_cuda_runtimes_answer_every_call(package: str, cache_dir: Path) -> None:
    """Without a driver each answers with an error of its own; a wrong signature would end the program."""
    hashes = {f"cuda-bindings=={version}": found.get(PYTHON, "") for version, found in CUDA_PYTHON.items()} | CUDA_LIBRARY
    paths = [unpacked(package, hashes[package], cache_dir), unpacked("cuda-pathfinder==1.9.0", PATHFINDER, cache_dir)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths[: 2 if "bindings" in package else 1]))}
    program = CALLS.format(root=str(ROOT))
    result = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=150, check=False)
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert (said.pop("from") == "module") == ("bindings" in package)
    assert [said.pop(name) for name in ("cudaStreamEndCapture", "cudaGraphInstantiateWithFlags", "cudaGraphDestroy")] == [2, 2, 1]
    assert {name for name, text in said.items() if "driver" not in text} == set()


def test_the_order_of_calls(here: Simulation, tmp_path: Path) -> None:
    with opened(here.backend, order(small(tmp_path / "small.onnx"), here.backend, unit="gpu", policy="latency"), tmp_path):
        pass
    wanted = [
        "Builder.create_network", "OnnxParser.parse", "Builder.create_builder_config", "IBuilderConfig.set_memory_pool_limit",
        "IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache", "Builder.build_serialized_network",
        "IBuilderConfig.get_timing_cache", "ITimingCache.serialize", "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_execution_context", "IExecutionContext.set_input_shape", "IExecutionContext.infer_shapes",
        "IExecutionContext.set_tensor_address", "IExecutionContext.execute_async_v3",
    ]  # fmt: skip
    found = names(here)
    assert [name for name in dict.fromkeys(found) if name in wanted] == wanted
    assert argument(here, "IBuilderConfig", "set_memory_pool_limit") == [here.tensorrt.MemoryPoolType.WORKSPACE]
    limits = [arguments[1] for _, name, arguments in here.tensorrt.calls if name == "set_memory_pool_limit"]
    assert limits == [here.cuda.cudaMemGetInfo()[1] // 2]


def test_later_calls_launch_one_graph(here: Simulation, tmp_path: Path) -> None:
    with opened(here.backend, order(small(tmp_path / "small.onnx"), here.backend, unit="gpu", policy="latency"), tmp_path) as engine:
        before, here.cuda.calls[:] = len(here.tensorrt.calls), []
        found = engine.infer({IMAGE: picture(3)})
        assert here.cuda.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"]
        assert [name for name in names(here)[before:] if "get_tensor_shape" not in name] == []
        np.testing.assert_allclose(found["same"], normalised(picture(3)), rtol=1e-5, atol=1e-4)


def test_a_plan_that_cannot_be_recorded_runs_without_a_graph(here: Simulation, tmp_path: Path) -> None:
    here.cuda.refuse_graphs = True
    with opened(here.backend, order(small(tmp_path / "small.onnx"), here.backend, unit="gpu"), tmp_path) as engine:
        here.cuda.calls[:] = []
        found = engine.infer({IMAGE: picture(3)})
        assert here.cuda.calls == ["cudaMemcpyAsync"] * 3 + ["cudaStreamSynchronize"]
        np.testing.assert_allclose(found["same"], normalised(picture(3)), rtol=1e-5, atol=1e-4)


def test_precisions_by_flags_or_by_types(here: Simulation, tmp_path: Path) -> None:
    assert here.backend.flavour == "s8s8"
    kinds, eleven = here.tensorrt.BuilderFlag, here.backend.version().startswith("11")
    for precision in set(here.backend.precisions("gpu")) - {"int8"}:
        del here.tensorrt.calls[:]
        build = order(small(tmp_path / "small.onnx"), here.backend, unit="gpu", precision=precision)
        with opened(here.backend, build, tmp_path) as engine:
            assert engine.precision == precision
            np.testing.assert_allclose(engine.infer({IMAGE: picture()})["maps"], convolved(normalised(picture())), atol=2.0)
        flags = {flag.name for flag in argument(here, "IBuilderConfig", "set_flag")}
        assert flags == (set() if eleven or precision == "fp32" else {precision.upper()})
        assert argument(here, "IBuilderConfig", "clear_flag") == ([kinds.TF32] if precision == "fp32" else [])


def quantised(path: Path) -> Path:
    """A convolution between a QuantizeLinear and a DequantizeLinear, symmetric and signed, with its weights in integers."""
    scale = float(np.abs(WEIGHTS).max() / 127)
    weights = [
        numpy_helper.from_array(np.round(WEIGHTS / scale).astype(np.int8), "w"), numpy_helper.from_array(np.float32(scale), "ws"),
        numpy_helper.from_array(np.float32(1.0), "s"), numpy_helper.from_array(np.int8(0), "z"),
    ]  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "z"], ["wd"]), helper.make_node("Conv", ["d", "wd"], ["maps"], pads=[1, 1, 1, 1]),
    ]  # fmt: skip
    return save(path, nodes, weights, {"maps": 4}, ["N", 3, "H", "W"])


def test_quantised_models(here: Simulation, tmp_path: Path) -> None:
    build = order(quantised(tmp_path / "qdq.onnx"), here.backend, unit="gpu", precision="int8")
    with opened(here.backend, build, tmp_path) as engine:
        assert engine.precision == "int8"
        np.testing.assert_allclose(engine.infer({IMAGE: picture()})["maps"], convolved(normalised(picture())), atol=12.0)
    flags = {flag.name for flag in argument(here, "IBuilderConfig", "set_flag")}
    assert flags == ({"INT8", "FP16"} if here.backend.version().startswith("8") else set())


def test_a_free_batch_has_a_profile_for_each_call_at_once(here: Simulation, tmp_path: Path) -> None:
    build = order(small(tmp_path / "small.onnx"), here.backend, unit="gpu", batch=4, least=2, streams=3)
    with opened(here.backend, build, tmp_path) as engine:
        takes_two_to_four(engine, "set_input_shape")
    assert names(here).count("IBuilderConfig.add_optimization_profile") == 3
    assert argument(here, "IExecutionContext", "set_optimization_profile_async") == [0, 1, 2]


def test_dla_tells_what_falls_back_to_the_gpu(here: Simulation, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert here.backend.units() == ("gpu", "dla0", "dla1")
    assert here.backend.precisions("dla1") == ("fp16", "fp32")
    with opened(here.backend, order(small(tmp_path / "small.onnx"), here.backend, unit="dla1", precision="fp16"), tmp_path):
        pass
    assert "GPU_FALLBACK" in {flag.name for flag in argument(here, "IBuilderConfig", "set_flag")}
    assert argument(here, "IBuilderConfig", "DLA_core") == argument(here, "Runtime", "DLA_core") == [1]
    assert "layers run on the GPU, not on dla1: CAST: almena_0" in caplog.text


def test_timings_are_kept_and_begun_anew_where_they_do_not_fit(here: Simulation, tmp_path: Path) -> None:
    build = order(small(tmp_path / "small.onnx"), here.backend, unit="gpu")
    here.backend.build(build, tmp_path / "a.plan")
    (kept,) = tmp_path.glob("*.timings")
    assert kept.name == f"tensorrt-{here.backend.version()}-sm87.timings"
    assert kept.read_bytes() == b"timed"
    here.backend.build(build, tmp_path / "b.plan")
    assert kept.read_bytes() == b"timedtimed"
    kept.write_bytes(b"of another GPU")
    here.backend.build(build, tmp_path / "c.plan")
    assert kept.read_bytes() == b"timed"


def test_a_plan_of_another_version_names_both(cache_dir: Path, tmp_path: Path) -> None:
    with tensorrt_here(VERSIONS[0], cache_dir) as old:
        build = order(small(tmp_path / "small.onnx"), old.backend, unit="gpu")
        old.backend.build(build, tmp_path / "old.plan")
    with tensorrt_here(VERSIONS[-1], cache_dir) as new, pytest.raises(EngineError) as caught:
        new.backend.load(build, tmp_path / "old.plan")
    assert VERSIONS[0] in str(caught.value)
    assert VERSIONS[-1] in str(caught.value)
    assert "delete it" in str(caught.value)


def test_a_damaged_plan_says_what_tensorrt_said(here: Simulation, tmp_path: Path) -> None:
    build = order(small(tmp_path / "small.onnx"), here.backend, unit="gpu")
    here.backend.build(build, tmp_path / "a.plan")
    head, line, plan = (tmp_path / "a.plan").read_bytes().split(b"\n", 2)
    (tmp_path / "a.plan").write_bytes(b"\n".join([head, line, plan[3:]]))
    with pytest.raises(EngineError, match="magicTag"):
        here.backend.load(build, tmp_path / "a.plan")


def test_an_unknown_operator_names_its_node(here: Simulation, tmp_path: Path) -> None:
    nodes = [helper.make_node("Conjure", ["x"], ["y"], domain="nobody.knows", name="trick")]
    model = save(tmp_path / "odd.onnx", nodes, [], {"y": 4}, ["N", 3, "H", "W"])
    with pytest.raises(ModelFileError, match=r"odd\.onnx: node .*No importer registered for op: Conjure"):
        here.backend.build(order(model, here.backend, unit="gpu"), tmp_path / "built")


def test_a_build_that_fails_says_what_tensorrt_said(here: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here.cuda, "cudaMemGetInfo", lambda: (0, 0, 0))
    with pytest.raises(EngineError, match=r"small: .* cannot build .* the workspace was not limited"):
        here.backend.build(order(small(tmp_path / "small.onnx"), here.backend, unit="gpu"), tmp_path / "built")


def test_too_many_contexts_are_an_error_and_leave_nothing(here: Simulation, tmp_path: Path) -> None:
    build = order(small(tmp_path / "small.onnx"), here.backend, unit="gpu", streams=9)
    with pytest.raises(EngineError, match="use fewer streams"):
        opened(here.backend, build, tmp_path)


def test_an_output_whose_size_depends_on_values_is_an_error(here: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = here.tensorrt.IExecutionContext.get_tensor_shape
    free = lambda self, name: (3, -1) if name == "maps" else real(self, name)  # noqa: E731
    monkeypatch.setattr(here.tensorrt.IExecutionContext, "get_tensor_shape", free)
    with pytest.raises(EngineError, match="size of 'maps' depends on values"):
        opened(here.backend, order(small(tmp_path / "small.onnx"), here.backend, unit="gpu"), tmp_path)


def test_an_error_of_cuda_is_told(here: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here.cuda, "cudaHostAlloc", lambda size, flags: (2, None))
    with pytest.raises(EngineError, match="cudaHostAlloc failed with 2"):
        opened(here.backend, order(small(tmp_path / "small.onnx"), here.backend, unit="gpu"), tmp_path)


def test_trtexec_is_asked_where_it_is_installed(here: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = order(small(tmp_path / "small.onnx"), here.backend, unit="gpu", precision="fp16", policy="throughput")
    backend: Any = here.backend
    monkeypatch.setattr(trtexec, "PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert backend.cross_check(build) is None
    program = tmp_path / "trtexec"
    times = "min = 1 ms, max = 3 ms, mean = 2 ms, median = 2 ms, percentile(99%) = 3 ms"
    program.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/said\necho 'Throughput: 500 qps\nLatency: {times}\nGPU Compute Time: {times}'\n")
    program.chmod(0o755)
    assert backend.cross_check(build) == trtexec.Figures(500.0, 2.0, 3.0, 2.0, 3.0)
    typed = "--stronglyTyped" if here.backend.version().startswith("11") else "--fp16"
    said = (tmp_path / "said").read_text().split()
    assert said[-1] == typed
    assert "--infStreams=2" in said


def test_no_gpu_is_told(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tensorrt_here(VERSIONS[-1], cache_dir) as here:
        build = order(small(tmp_path / "small.onnx"), here.backend)
        monkeypatch.setattr("engines.backends.tensorrt.gpus", lambda: ())
        assert here.backend.units() == ()
        assert here.backend.missing() == {"gpu": "no NVIDIA GPU or no driver for it"}
        with pytest.raises(EngineError, match="no NVIDIA GPU"):
            here.backend.build(build, tmp_path / "built")


def test_sixteen_bits_change_little(tmp_path: Path, cache_dir: Path) -> None:
    """The types in the file, which TensorRT 11 computes in, keep the model's meaning; its checker accepts them."""
    content = with_picture_input(order(small(tmp_path / "small.onnx"), OnnxRuntimeBackend()))
    for half, kind in (("fp16", onnx.TensorProto.FLOAT16), ("bf16", onnx.TensorProto.BFLOAT16)):
        model = onnx.load_from_string(in_halves(content, half, NORMALISED))  # type: ignore[arg-type]
        onnx.checker.check_model(model, full_check=True)
        assert {value.type.tensor_type.elem_type for value in model.graph.output} == {onnx.TensorProto.FLOAT}
        assert kind in {weight.data_type for weight in model.graph.initializer}


@pytest.mark.parametrize(("scale", "cast"), [(2.0**-15, True), (2.0**-18, False)])
def test_scales_that_sixteen_bits_cannot_hold_stay_as_they_are(tmp_path: Path, scale: float, cast: bool) -> None:
    model = onnx.load(str(quantised(tmp_path / "qdq.onnx")))
    (held,) = [weight for weight in model.graph.initializer if weight.name == "ws"]
    held.CopyFrom(numpy_helper.from_array(np.float32(scale), "ws"))
    (tmp_path / "qdq.onnx").write_bytes(model.SerializeToString())
    content = with_picture_input(order(tmp_path / "qdq.onnx", OnnxRuntimeBackend(), precision="int8"))
    assert (in_halves(content, "fp16", NORMALISED) != content) == cast
