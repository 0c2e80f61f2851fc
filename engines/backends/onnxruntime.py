"""ONNX Runtime: on the CPU, and through its CUDA and TensorRT execution providers. The providers of GPUs: see docs/engines.md."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from engines.backends.base import IMAGE, Backend, Build, Flavour
from engines.backends.cuda import gpus
from engines.base import Engine, EngineError, T, Tensor, TensorSpec
from engines.convert.onnx_operators import unsupported
from engines.errors import ModelFileError, said
from engines.files import sha256

_PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""The execution provider of each unit, best first."""
_BEHIND = {"tensorrt": ["CUDAExecutionProvider", "CPUExecutionProvider"], "cuda": ["CPUExecutionProvider"], "cpu": []}
"""Who computes the operators that a provider does not have."""
_FAILURES: tuple[type[Exception], ...] = tuple(
    getattr(failures, name) for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
)
_DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64", "tensor(uint8)": "uint8",
    "tensor(int8)": "int8", "tensor(int32)": "int32", "tensor(int64)": "int64", "tensor(bool)": "bool",
}  # fmt: skip
_LIBRARIES = {"cuda": ("libcudnn.so.9",), "tensorrt": ("libcudnn.so.9", "libnvinfer.so.10")}
"""What the providers of current wheels load besides CUDA itself."""
_INTEGERS = ("QLinear", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantize")
_PRECISION = "almena_precision"
WORKSPACE = 1 << 30
"""Bytes that TensorRT's kernels may use in passing."""


class OnnxRuntimeBackend(Backend):
    """Builds are ONNX files of one shape with pre-processing in front."""

    name = "onnxruntime"
    formats = ("onnx",)
    suffix = ".onnx"

    def version(self) -> str:
        """For example 1.31.1."""
        return str(ort.__version__)

    def units(self) -> tuple[str, ...]:
        """Those whose execution providers this build of ONNX Runtime has and whose libraries and devices are here."""
        return tuple(unit for unit in _PROVIDERS if unit not in self.missing())

    def missing(self) -> dict[str, str]:
        """The providers that this package lacks, or that lack a device or a library."""
        return {unit: why for unit in _PROVIDERS if (why := self._why_not(unit))}

    def _why_not(self, unit: str) -> str:
        if _PROVIDERS[unit] not in ort.get_available_providers():
            return f"no {_PROVIDERS[unit]} in this package; onnxruntime-gpu has it"
        if unit != "cpu" and not gpus():
            return "no NVIDIA GPU or no driver for it"
        missing = [name for name in _LIBRARIES.get(unit, ()) if not _loadable(name)]
        return f"{', '.join(missing)} cannot be loaded: pip install 'onnxruntime-gpu[cuda,cudnn]' tensorrt-cu12" if missing else ""

    def device(self, unit: str) -> str:
        """On the CPU the kind of processor and its threads, for the file fits any of the kind; else the GPU, and TensorRT's version."""
        if unit == "cpu":
            return f"CPU {platform.machine()}, {os.cpu_count()} threads"
        return f"{gpus()[0]}, TensorRT {_tensorrt()}" if unit == "tensorrt" else str(gpus()[0])

    def precisions(self, unit: str) -> tuple[str, ...]:
        """On the CPU int8 and fp32: it casts any other float back. CUDA computes in the types of the file; TensorRT in those allowed."""
        return {"cpu": ("int8", "fp32"), "cuda": ("fp16", "fp32"), "tensorrt": ("int8", "fp16", "bf16", "fp32")}[unit]

    def flavour_on(self, unit: str) -> Flavour:
        """Unsigned activations on x86, where their kernels are the fast ones; signed ones on ARM and for TensorRT."""
        return "u8s8" if unit == "cpu" and platform.machine() in ("x86_64", "AMD64") else "s8s8"

    def build(self, build: Build, target: Path) -> None:
        """Fix the shape, put pre-processing in front, and let the runtime accept the result."""
        from engines.convert.onnx_floats import in_halves
        from engines.convert.onnx_input import NORMALISED, with_picture_input

        content = with_picture_input(build)
        if build.unit == "cuda" and build.precision == "fp16":
            content = in_halves(content, "fp16", NORMALISED)
        target.write_bytes(content)
        with tempfile.TemporaryDirectory(prefix="almena-onnxruntime-") as folder:
            optimised = Path(folder) / "optimised.onnx" if build.unit == "cpu" and _holds_integers(content) else None
            self._session(build, target, build.model.name, optimised)
            if build.unit != "tensorrt":
                computed = "int8" if optimised is not None and _computes_integers(optimised) else _float(content, build.unit)
                target.write_bytes(_with_precision(content, computed))

    def load(self, build: Build, built: Path) -> Engine:
        """Open a session. Raises EngineError where the runtime fell back to another provider."""
        return OnnxRuntimeEngine(build, self._session(build, built, built.name), self._parallel(build))

    def _session(self, build: Build, path: Path, shown: str, optimised: Path | None = None) -> ort.InferenceSession:
        provider = _PROVIDERS[build.unit]
        if build.unit != "cpu" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, self._threads(build) // self._parallel(build))
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        if optimised is not None:
            options.optimized_model_filepath = str(optimised)
        providers = [(provider, self.options(build, path)), *_BEHIND[build.unit]]
        try:
            session = ort.InferenceSession(path.read_bytes(), options, providers=providers)
        except _FAILURES as error:
            lacking = unsupported(error, build.name, f"ONNX Runtime {self.version()}", build.model)
            raise lacking or ModelFileError(
                f"{build.name}: ONNX Runtime {self.version()} cannot load {shown}: {said(error)}."
                " If the file is damaged, delete it and fetch it again; else choose another backend."
            ) from error
        if session.get_providers()[0] != provider:
            raise EngineError(f"{build.name}: ONNX Runtime runs on {session.get_providers()}, not on {provider}; `almena doctor` says why")
        return session

    def options(self, build: Build, path: Path) -> dict[str, str]:
        """Of the unit's execution provider. TF32, which CUDA takes for fp32 unless told, is off. TensorRT keeps what it builds in a folder
        for this runtime, TensorRT, device and file.
        """
        if build.unit != "tensorrt":
            return {"use_tf32": "0"} if build.unit == "cuda" else {}
        key = "|".join((self.version(), self.device(build.unit), sha256(path), build.precision))
        folder = str(path.parent / "onnxruntime-tensorrt" / hashlib.sha256(key.encode()).hexdigest()[:16])
        options = {
            "trt_engine_cache_enable": "1", "trt_engine_cache_path": folder, "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": folder, "trt_max_workspace_size": str(WORKSPACE),
        }  # fmt: skip
        allowed = {"fp16": ("fp16",), "bf16": ("bf16",), "int8": ("int8", "fp16")}.get(build.precision, ())
        options |= {f"trt_{name}_enable": "1" for name in allowed}
        if build.least is not None:
            shape = f"{build.height}x{build.width}x{build.input.channels}"
            bounds = {"min": build.least, "opt": build.batch, "max": build.batch}
            options |= {f"trt_profile_{name}_shapes": f"{IMAGE}:{count}x{shape}" for name, count in bounds.items()}
        return options

    @staticmethod
    def _threads(build: Build) -> int:
        return build.threads or os.cpu_count() or 1

    def _parallel(self, build: Build) -> int:
        if build.unit != "cpu":
            return build.streams or (2 if build.policy == "throughput" else 1)
        return build.streams or (self._threads(build) if build.policy == "throughput" else 1)


class OnnxRuntimeEngine(Engine):
    """A session, which is thread-safe and releases the GIL while it runs."""

    backend = "onnxruntime"

    def __init__(self, build: Build, session: ort.InferenceSession, parallel: int) -> None:
        self.name = build.name
        self.precision = _precision(build, session)
        self.parallel = parallel
        self._advice = ". If the model was exported for one picture at a time, run it with a batch of 1" if build.batch > 1 else ""
        self.inputs = tuple(_spec(build, value) for value in session.get_inputs())
        self.outputs = tuple(_spec(build, value) for value in session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._session: ort.InferenceSession | None = session

    def _read(self, tensors: Mapping[str, Tensor], reader: Callable[[Mapping[str, Tensor]], T]) -> T:
        session = self._session
        if session is None:
            raise EngineError(f"{self.name}: the engine is closed")
        try:
            results = session.run(self._names, {IMAGE: np.ascontiguousarray(tensors[IMAGE])})
        except _FAILURES as error:
            raise EngineError(f"{self.name}: ONNX Runtime failed: {said(error)}{self._advice}") from error
        return reader(dict(zip(self._names, results, strict=True)))

    def close(self) -> None:
        """Let the session go; calls under way end first."""
        self._session = None


def _precision(build: Build, session: ort.InferenceSession) -> str:
    """What the session computes in: on the CPU and by CUDA as `build` noted it in the file, for these compute in its types.

    TensorRT's provider tells no more than what it is allowed; it may choose fp32 kernels all the same.
    """
    if build.unit != "tensorrt":
        return str(session.get_modelmeta().custom_metadata_map.get(_PRECISION, "unknown"))
    allowed = session.get_provider_options()[_PROVIDERS["tensorrt"]]
    return next((name for name in ("int8", "fp16", "bf16") if allowed.get(f"trt_{name}_enable") == "1"), "fp32")


def _holds_integers(content: bytes) -> bool:
    """Whether anything is quantised in a model."""
    import onnx

    kinds = {node.op_type for node in onnx.load_from_string(content).graph.node}
    return any(kind.startswith(("DequantizeLinear", *_INTEGERS)) for kind in kinds)


def _float(content: bytes, unit: str) -> str:
    """What a model that is not quantised is computed in: on the CPU, which casts all other floats, fp32; by CUDA its weights' type."""
    import onnx

    halves = onnx.TensorProto.FLOAT16 in {weight.data_type for weight in onnx.load_from_string(content).graph.initializer}
    return "fp16" if unit == "cuda" and halves else "fp32"


def _computes_integers(optimised: Path) -> bool:
    """Whether the runtime made operators of integers out of QuantizeLinear, float operator, DequantizeLinear."""
    import onnx

    nodes = onnx.load(str(optimised), load_external_data=False).graph.node
    return any(node.op_type.startswith(_INTEGERS) for node in nodes)


def _with_precision(content: bytes, precision: str) -> bytes:
    """The model with a note of what is computed in."""
    import onnx

    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, {**{prop.key: prop.value for prop in model.metadata_props}, _PRECISION: precision})
    noted: bytes = model.SerializeToString()
    return noted


@cache
def _loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _tensorrt() -> str:
    """The version of the package that the provider takes its libraries from."""
    for package in ("tensorrt-cu12", "tensorrt-cu13", "tensorrt"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "of the system"


def _spec(build: Build, value: Any) -> TensorSpec:
    if value.type not in _DTYPES:
        raise ModelFileError(
            f"{build.name}: output {value.name!r} of {build.model.name} is {value.type}, which is no numbers; export the model without it"
        )
    return TensorSpec(value.name, _DTYPES[value.type], tuple(size if isinstance(size, int) else None for size in value.shape))
