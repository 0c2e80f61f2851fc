"""LiteRT (TensorFlow Lite) with XNNPACK on the CPU."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from engines.backends.base import IMAGE, Backend, Build
from engines.backends.pool import Pool
from engines.base import Engine, EngineError, T, Tensor, TensorSpec
from engines.errors import ModelFileError, said

_FAILURES = (RuntimeError, ValueError)


class LiteRtBackend(Backend):
    """Builds are the TFLite files themselves: the runtime has no tools to put pre-processing in, so the engine does it on the host."""

    name = "litert"
    formats = ("tflite",)
    suffix = ".tflite"

    def version(self) -> str:
        """For example 2.1.0."""
        return version("ai-edge-litert")

    def units(self) -> tuple[str, ...]:
        """The CPU."""
        return ("cpu",)

    def device(self, unit: str) -> str:
        """The kind of processor and its threads."""
        return f"CPU {platform.machine()}, {os.cpu_count()} threads"

    def precisions(self, unit: str) -> tuple[str, ...]:
        """fp32: a file of 8-bit integers computes in those, whatever is asked for, and its engine says so."""
        return ("fp32",)

    def build(self, build: Build, target: Path) -> None:
        """Let the runtime accept the file at the wanted shape, and keep a copy."""
        content = build.model.read_bytes()
        _Prepared(build, content, build.model.name, 1)
        target.write_bytes(content)

    def load(self, build: Build, built: Path) -> Engine:
        """Open the interpreters."""
        try:
            return LiteRtEngine(build, built.read_bytes(), built.name)
        except OSError as error:
            raise EngineError(f"{build.name}: {built.name} cannot be read: {error}; delete it to have it rebuilt") from error


class LiteRtEngine(Engine):
    """A pool of interpreters, one for each call at once; further callers wait. The GIL is released while one runs."""

    backend = "litert"

    def __init__(self, build: Build, content: bytes, shown: str) -> None:
        self.name = build.name
        threads = build.threads or os.cpu_count() or 1
        self.parallel = build.streams or (threads if build.policy == "throughput" else 1)
        pool = [_Prepared(build, content, shown, max(1, threads // self.parallel)) for _ in range(self.parallel)]
        self.precision = pool[0].precision
        self.inputs = (TensorSpec(IMAGE, "uint8", (build.batch, build.height, build.width, build.input.channels)),)
        self.outputs = pool[0].outputs
        self._pool = Pool(build.name, pool)

    def _read(self, tensors: Mapping[str, Tensor], reader: Callable[[Mapping[str, Tensor]], T]) -> T:
        prepared = self._pool.take()
        try:
            try:
                outputs = prepared.run(tensors[IMAGE])
            except _FAILURES as error:
                raise EngineError(f"{self.name}: LiteRT failed: {said(error)}") from error
            return reader(outputs)
        finally:
            self._pool.give(prepared)

    def close(self) -> None:
        """Free the interpreters; calls under way end first."""
        self._pool.close()


class _Prepared:
    """An interpreter of one shape, and how pictures become its input and its outputs numbers."""

    def __init__(self, build: Build, content: bytes, shown: str, threads: int) -> None:
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            inputs = self._interpreter.get_input_details()
            if len(inputs) != 1:
                raise ModelFileError(f"{build.name}: {shown} has {len(inputs)} inputs, not one picture")
            self._planar = build.input.layout == "NCHW"
            size = (build.height, build.width)
            shape = (build.batch, build.input.channels, *size) if self._planar else (build.batch, *size, build.input.channels)
            _require_shape(build, shown, inputs[0], shape)
            self._interpreter.resize_tensor_input(inputs[0]["index"], shape)
            self._interpreter.allocate_tensors()
        except _FAILURES as error:
            raise ModelFileError(
                f"{build.name}: LiteRT {version('ai-edge-litert')} cannot load {shown}: {said(error)}."
                " If the file is damaged, delete it and fetch it again; if an operator is unknown, choose another backend."
            ) from error
        self._input = self._interpreter.get_input_details()[0]
        self._turned = build.input.colour == "RGB"
        self._mean = np.array(build.input.mean, np.float32)
        self._scale = np.array(build.input.scale, np.float32)
        self._table = _table(self._input, self._mean, self._scale)
        details = self._interpreter.get_output_details()
        names = build.output_names([[*_signed(self._interpreter, detail["index"]), detail["name"]] for detail in details])
        self._details = dict(zip(names, details, strict=True))
        self.outputs = tuple(
            TensorSpec(name, np.dtype(_float_or_own(detail)).name, tuple(map(int, detail["shape"])))
            for name, detail in self._details.items()
        )
        kinds = {np.dtype(detail["dtype"]).name for detail in self._interpreter.get_tensor_details()}
        self.precision = "int8" if kinds & {"int8", "uint8"} else "fp32"

    def run(self, image: Tensor) -> dict[str, Tensor]:
        """The outputs for `image`, (batch, height, width, channels) uint8; they are copies."""
        turned = image[..., ::-1] if self._turned else image
        if self._table is None:
            fed = turned.astype(np.float32)
            np.subtract(fed, self._mean, out=fed)
            np.divide(fed, self._scale, out=fed)
        else:
            fed = self._table[turned, np.arange(turned.shape[-1])]
        self._interpreter.set_tensor(self._input["index"], fed.transpose(0, 3, 1, 2) if self._planar else fed)
        self._interpreter.invoke()
        return {name: _number(self._interpreter.get_tensor(detail["index"]), detail) for name, detail in self._details.items()}


def _require_shape(build: Build, shown: str, detail: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Free dimensions and the batch can be set; the runtime would take any other shape of that rank too, and compute nonsense."""
    own = [int(size) for size in detail["shape_signature"]]
    if len(own) != 4 or any(have not in (-1, want) for have, want in zip(own[1:], shape[1:], strict=True)):
        raise ModelFileError(f"{build.name}: input {detail['name']!r} of {shown} is {own} (-1: free), not {list(shape)}; correct the card")


def _table(detail: Mapping[str, Any], mean: Tensor, scale: Tensor) -> Tensor | None:
    """What a quantised input holds for each value of a byte, (256, channels); None where the input is a float.

    q = round(x / scale + zero point), the TensorFlow Lite 8-bit quantisation specification.
    """
    kind = np.dtype(detail["dtype"])
    if kind == np.float32:
        return None
    numbers = (np.arange(256, dtype=np.float32)[:, None] - mean) / scale
    step, zero = detail["quantization"]
    numbers = numbers / step + zero if step else numbers
    limits = np.iinfo(kind)
    return np.asarray(np.clip(np.round(numbers), limits.min, limits.max), kind)


def _float_or_own(detail: Mapping[str, Any]) -> Any:
    return np.float32 if detail["quantization"][0] else detail["dtype"]


def _number(tensor: Tensor, detail: Mapping[str, Any]) -> Tensor:
    step, zero = detail["quantization"]
    return (tensor.astype(np.float32) - np.float32(zero)) * np.float32(step) if step else tensor


def _signed(interpreter: Any, index: int) -> list[str]:
    """The name of an output in the file's signature, if it has one."""
    for key in interpreter.get_signature_list():
        for name, detail in interpreter.get_signature_runner(key).get_output_details().items():
            if detail["index"] == index:
                return [name]
    return []
