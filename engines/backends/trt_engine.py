"""A TensorRT plan that runs: contexts, streams, pinned buffers and CUDA graphs."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorrt as trt

from engines.backends.base import IMAGE, Build
from engines.backends.cuda import Cuda
from engines.backends.pool import Pool
from engines.backends.trt_build import contexts
from engines.backends.trt_log import LOG
from engines.base import Engine, EngineError, T, Tensor, TensorSpec
from engines.errors import ModelFileError

log = logging.getLogger(__name__)

KINDS = {"int8": r"\bInt8\b", "fp16": r"\bFP16\b|\bHalf\b", "bf16": r"\bBF16\b|\bBFloat16\b"}
"""How the inspector writes what tensors are made of, the most reduced first."""


class TensorRtEngine(Engine):
    """A plan with as many execution contexts as calls at once, each with a stream and buffers of its own."""

    backend = "tensorrt"

    def __init__(self, build: Build, cuda: Cuda, runtime: Any, engine: Any) -> None:
        self.name = build.name
        self.precision = precision(engine)
        self.parallel = contexts(build)
        specs = {name: _spec(engine, name) for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors))}
        modes = {name: engine.get_tensor_mode(name) for name in specs}
        self.inputs = tuple(specs[name] for name in specs if modes[name] == trt.TensorIOMode.INPUT)
        self.outputs = tuple(specs[name] for name in specs if modes[name] == trt.TensorIOMode.OUTPUT)
        if [spec.name for spec in self.inputs] != [IMAGE]:
            raise EngineError(f"{self.name}: the plan takes {[spec.name for spec in self.inputs]}, not {IMAGE}; delete it")
        self._owners: list[Any] = [engine, runtime]
        calls: list[Call] = []
        try:
            for number in range(self.parallel):
                calls.append(Call(self, cuda, engine, number))
                calls[-1].prepare(build)
        except EngineError:
            for call in calls:
                call.close()
            raise
        self._pool = Pool(self.name, calls)

    def _read(self, tensors: Mapping[str, Tensor], reader: Callable[[Mapping[str, Tensor]], T]) -> T:
        call = self._pool.take()
        try:
            return reader(call.run(tensors[IMAGE]))
        finally:
            self._pool.give(call)

    def close(self) -> None:
        """Free contexts, buffers and streams, then the plan, then TensorRT's runtime; calls under way end first."""
        for call in self._pool.close():
            call.close()
        self._owners.clear()


class Call:
    """One execution context with its stream, its pinned and device buffers, and for a fixed shape a CUDA graph of the whole call."""

    def __init__(self, owner: TensorRtEngine, cuda: Cuda, engine: Any, number: int) -> None:
        self._name = owner.name
        self._number = number
        self._cuda = cuda
        self._specs, self._outputs = (*owner.inputs, *owner.outputs), owner.outputs
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{self._name}: TensorRT has no memory for another context: {LOG.errors()}; use fewer streams")
        self._stream = cuda.stream()
        self._graph: Any = None
        self._host: dict[str, Tensor] = {}
        self._device: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def prepare(self, build: Build) -> None:
        """Profile, shapes, buffers, addresses, a first call, and the graph, in the order that TensorRT demands."""
        if build.least is not None:
            self._done(self._context.set_optimization_profile_async(self._number, self._stream), "set_optimization_profile_async")
        shape = (build.batch, build.height, build.width, build.input.channels)
        self._take(shape)
        for spec in self._specs:
            full = shape if spec.name == IMAGE else tuple(self._context.get_tensor_shape(spec.name))
            self._add(spec, full)
        self.run(np.zeros(shape, np.uint8))
        if build.least is None:
            self._capture()

    def _add(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        size = math.prod(shape) * np.dtype(spec.dtype).itemsize
        self._host[spec.name] = self._cuda.pinned(size).view(spec.dtype)
        self._device[spec.name] = self._cuda.allocate(size)
        self._done(self._context.set_tensor_address(spec.name, self._device[spec.name]), f"set_tensor_address({spec.name})")

    def _take(self, shape: tuple[int, ...]) -> None:
        """Let the context know the input's shape; with it, the outputs' shapes are known."""
        if shape == self._shape:
            return
        self._done(self._context.set_input_shape(IMAGE, shape), f"set_input_shape({shape})")
        missing = self._context.infer_shapes()
        if missing:
            raise EngineError(f"{self._name}: the shapes of {', '.join(missing)} depend on values; choose another backend")
        self._shape = shape
        self._shapes = {spec.name: tuple(self._context.get_tensor_shape(spec.name)) for spec in self._outputs}
        for name, sizes in self._shapes.items():
            if min(sizes, default=0) < 0:
                raise EngineError(f"{self._name}: the size of {name!r} depends on values; choose another backend")

    def run(self, image: Tensor) -> dict[str, Tensor]:
        """Outputs for one input. They lie in this call's own memory."""
        self._take(image.shape)
        np.copyto(self._host[IMAGE][: image.size].reshape(image.shape), image)
        if self._graph is None:
            self._enqueue()
        else:
            self._cuda.launch(self._graph, self._stream)
        self._cuda.synchronise(self._stream)
        return {name: self._host[name][: math.prod(shape)].reshape(shape) for name, shape in self._shapes.items()}

    def _enqueue(self) -> None:
        host, device, stream = self._host, self._device, self._stream
        self._cuda.to_device(device[IMAGE], host[IMAGE].ctypes.data, math.prod(self._shape), stream)
        self._done(self._context.execute_async_v3(stream), "execute_async_v3")
        for name, shape in self._shapes.items():
            size = math.prod(shape) * host[name].itemsize
            self._cuda.to_host(host[name].ctypes.data, device[name], size, stream)

    def _capture(self) -> None:
        """Record the call, so that a later one costs a single launch. Some plans cannot be recorded: with loops, or on a DLA."""
        try:
            self._graph = self._cuda.captured(self._stream, self._enqueue)
        except EngineError as error:
            log.info("%s runs without a CUDA graph: %s", self._name, error)

    def _done(self, ok: bool, what: str) -> None:
        if not ok:
            raise EngineError(f"{self._name}: TensorRT {trt.__version__} refuses {what}: {LOG.errors()}")

    def close(self) -> None:
        """Free everything."""
        if self._graph is not None:
            self._cuda.destroy_graph(self._graph)
        self._context = None
        for address in self._device.values():
            self._cuda.free(address)
        for memory in self._host.values():
            self._cuda.free_pinned(memory)
        self._cuda.destroy_stream(self._stream)


def precision(engine: Any) -> str:
    """The most reduced precision among a plan's layers, as TensorRT's inspector tells; `unknown` where it was not built to tell."""
    told = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    layers = [layer for layer in json.loads(told)["Layers"] if isinstance(layer, dict)]
    if not layers:
        return "unknown"
    formats = " ".join(str(tensor.get("Format/Datatype")) for layer in layers for tensor in layer.get("Outputs", ()))
    return next((name for name, pattern in KINDS.items() if re.search(pattern, formats)), "fp32")


def _spec(engine: Any, name: str) -> TensorSpec:
    try:
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name
    except TypeError as error:
        raise ModelFileError(f"tensor {name!r} is of {engine.get_tensor_dtype(name)}, which numpy has not") from error
    return TensorSpec(name, dtype, tuple(size if size >= 0 else None for size in engine.get_tensor_shape(name)))
