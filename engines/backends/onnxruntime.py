"""ONNX Runtime: on the CPU, and through its CUDA and TensorRT execution providers."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from engines.backends.base import IMAGE, Backend, Build
from engines.base import Engine, EngineError, T, Tensor, TensorSpec
from engines.errors import ModelFileError

_PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""The execution provider of each unit, best first."""
_FAILURES: tuple[type[Exception], ...] = tuple(
    getattr(failures, name) for name in ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
)
_DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(int64)": "int64", "tensor(int32)": "int32"}


class OnnxRuntimeBackend(Backend):
    """Builds are ONNX files of one fixed shape with pre-processing in front."""

    name = "onnxruntime"
    formats = ("onnx",)
    suffix = ".onnx"

    def version(self) -> str:
        """For example 1.31.1."""
        return str(ort.__version__)

    def units(self) -> tuple[str, ...]:
        """Those whose execution providers this build of ONNX Runtime has."""
        return tuple(unit for unit, provider in _PROVIDERS.items() if provider in ort.get_available_providers())

    def device(self, unit: str) -> str:
        """The kind of processor and its threads; the file that is built fits any of the kind."""
        return f"CPU {platform.machine()}, {os.cpu_count()} threads"

    def precisions(self, unit: str) -> tuple[str, ...]:
        """int8 and fp32: the CPU provider casts any other float back."""
        return ("int8", "fp32")

    def build(self, build: Build, target: Path) -> None:
        """Fix the shape, put pre-processing in front, and let the runtime accept the result."""
        from engines.convert.onnx_input import with_picture_input

        target.write_bytes(with_picture_input(build))
        self._session(build, target, build.model.name)

    def load(self, build: Build, built: Path) -> Engine:
        """Open a session. Raises EngineError where the runtime fell back to another provider."""
        return OnnxRuntimeEngine(build, self._session(build, built, built.name), self._parallel(build))

    def _session(self, build: Build, path: Path, shown: str) -> ort.InferenceSession:
        provider = _PROVIDERS[build.unit]
        options = ort.SessionOptions()
        options.intra_op_num_threads = max(1, self._threads(build) // self._parallel(build))
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(path.read_bytes(), options, providers=[provider])
        except _FAILURES as error:
            raise ModelFileError(
                f"{build.name}: ONNX Runtime {self.version()} cannot load {shown}: {' '.join(str(error).split())[:400]}."
                " If the file is damaged, delete it and fetch it again; if an operator is unknown, choose another backend."
            ) from error
        if session.get_providers()[0] != provider:
            raise EngineError(f"{build.name}: ONNX Runtime runs on {session.get_providers()}, not on {provider}; `almena doctor` says why")
        return session

    @staticmethod
    def _threads(build: Build) -> int:
        return build.threads or os.cpu_count() or 1

    def _parallel(self, build: Build) -> int:
        return build.streams or (self._threads(build) if build.policy == "throughput" else 1)


class OnnxRuntimeEngine(Engine):
    """A session, which is thread-safe and releases the GIL while it runs."""

    backend = "onnxruntime"

    def __init__(self, build: Build, session: ort.InferenceSession, parallel: int) -> None:
        self.name = build.name
        self.precision = build.precision
        self.parallel = parallel
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._session: ort.InferenceSession | None = session

    def _read(self, tensors: Mapping[str, Tensor], reader: Callable[[Mapping[str, Tensor]], T]) -> T:
        session = self._session
        if session is None:
            raise EngineError(f"{self.name}: the engine is closed")
        try:
            results = session.run(self._names, {IMAGE: np.ascontiguousarray(tensors[IMAGE])})
        except _FAILURES as error:
            raise EngineError(f"{self.name}: ONNX Runtime failed: {' '.join(str(error).split())[:400]}") from error
        return reader(dict(zip(self._names, results, strict=True)))

    def close(self) -> None:
        """Let the session go; calls under way end first."""
        self._session = None


def _spec(value: Any) -> TensorSpec:
    if value.type not in _DTYPES:
        raise ModelFileError(f"tensor {value.name!r} of type {value.type}; known are {', '.join(_DTYPES)}")
    return TensorSpec(value.name, _DTYPES[value.type], tuple(size if isinstance(size, int) else None for size in value.shape))
