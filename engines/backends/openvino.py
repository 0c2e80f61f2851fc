"""OpenVINO on the CPU, on Intel's GPUs and NPUs."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.base import FLOAT_INPUT, IMAGE, Backend, Build
from engines.backends.openvino_runtime import ov
from engines.backends.pool import Pool
from engines.base import Engine, EngineError, T, Tensor, TensorSpec, Writer
from engines.card import IR
from engines.convert.onnx_operators import unsupported
from engines.errors import ModelFileError, said

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
SIDE_BY_SIDE = 4, 2
"""Pictures; the first number that divides the batch. Measured: 4 is the quickest, then 2, then 8."""
_WEIGHTED = ("convolution", "deconvolution", "fullyconnected", "matmul", "gemm")
"""Types of layers as the plug-ins call them, in small letters and without underscores."""


class OpenVinoBackend(Backend):
    """Builds are exported compiled models; pre-processing is in their graph."""

    name = "openvino"
    formats = ("openvino", "onnx", "tflite", "savedmodel")
    suffix = ".blob"

    def __init__(self) -> None:
        self.core = _core()

    def version(self) -> str:
        """For example 2026.4.1-22982."""
        return str(ov.get_version())

    def units(self) -> tuple[str, ...]:
        """The kinds of devices that it sees; the CPU first: it is what `auto` takes until the tuner has compared."""
        seen = {device.partition(".")[0] for device in self.core.available_devices}
        return tuple(unit.lower() for unit in ("CPU", "GPU", "NPU") if unit in seen)

    def missing(self) -> dict[str, str]:
        """Intel's GPU and NPU, where OpenVINO does not see them."""
        drivers = {"gpu": "intel-opencl-icd", "npu": "intel-driver-compiler-npu"}
        return {unit: f"none, or without its driver ({name})" for unit, name in drivers.items() if unit not in self.units()}

    def device(self, unit: str) -> str:
        """The device's name, the host's threads and what it can compute in."""
        able = sorted(self.core.get_property(unit.upper(), "OPTIMIZATION_CAPABILITIES"))
        return f"{self.core.get_property(unit.upper(), 'FULL_DEVICE_NAME').strip()}, {os.cpu_count()} threads, {' '.join(able)}"

    def precisions(self, unit: str) -> tuple[str, ...]:
        """Those of the device's capabilities that are not emulated. For an NPU, which has no fp32, the CPU computes it."""
        able = self.core.get_property(unit.upper(), "OPTIMIZATION_CAPABILITIES")
        reduced = {"int8": "INT8", "bf16": "BF16", "fp16": "FP16"} if unit != "cpu" else {"int8": "INT8", "bf16": "BF16"}
        return (*(name for name, capability in reduced.items() if capability in able), "fp32")

    def build(self, build: Build, target: Path) -> None:
        """Read, fix the shape, put pre-processing in, compile, export."""
        try:
            model = self._prepared(self.core.read_model(_readable(build)), build)
            target.write_bytes(self.core.compile_model(model, _device(build), self.config(build)).export_model().getvalue())
        except (RuntimeError, UnicodeDecodeError) as error:
            raise unsupported(error, build.name, f"OpenVINO {self.version()}", build.model) or ModelFileError(
                f"{build.name}: OpenVINO {self.version()} cannot build {build.model.name}: {said(error)}."
                " If the file is damaged, delete it and fetch it again; else choose another backend."
            ) from error

    def load(self, build: Build, built: Path) -> Engine:
        """Import the exported model."""
        try:
            file = _Mapped(built)
            return OpenVinoEngine(build, self.core.import_model(file.tensor, _device(build), self.config(build)), file)
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{build.name}: OpenVINO cannot load {built.name}: {said(error)}; delete it to have it rebuilt") from error

    def _prepared(self, model: Any, build: Build) -> Any:
        if len(model.inputs) != 1:
            raise ModelFileError(f"{build.name}: {build.model.name} has {len(model.inputs)} inputs, not one picture")
        only = model.inputs[0]
        if not only.get_element_type().is_real():
            kind = only.get_element_type().to_string()
            raise ModelFileError(f"{build.name}: input {only.get_any_name()!r} of {build.model.name} is {kind}; {FLOAT_INPUT}")
        shape = only.get_partial_shape()
        if shape.rank.is_static:
            build.require_channels(only.get_any_name(), [size.get_length() if size.is_static else None for size in shape])
        height, width, planar = build.height, build.width, build.input.layout == "NCHW"
        channels = build.input.channels
        batch = ov.Dimension(build.batch) if build.least is None else ov.Dimension(build.least, build.batch)
        model.reshape(ov.PartialShape([batch, channels, height, width] if planar else [batch, height, width, channels]))
        _require_numbers(model, build)
        steps = ov.preprocess.PrePostProcessor(model)
        picture = steps.input()
        picture.tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        if channels == 3:
            picture.tensor().set_color_format(ov.preprocess.ColorFormat.BGR)
        picture.model().set_layout(ov.Layout(build.input.layout))
        picture.preprocess().convert_element_type(ov.Type.f32)
        if build.input.colour == "RGB":
            picture.preprocess().convert_color(ov.preprocess.ColorFormat.RGB)
        if any(build.input.mean):
            picture.preprocess().mean(list(build.input.mean))
        if set(build.input.scale) != {1.0}:
            picture.preprocess().scale(list(build.input.scale))
        model = steps.build()
        model.inputs[0].get_tensor().set_names({IMAGE})
        return model

    def config(self, build: Build) -> dict[str, Any]:
        """What a model is compiled, and imported, with: an import without the precision computes in the device's favourite one.

        What an int8 model leaves in float, because 8 bits are too few there, is computed in the fastest float of the device but bf16,
        which has no more bits: alone it costs CenterFace half of the overlap that int8 may cost.
        """
        able = [name for name in self.precisions(build.unit) if name not in ("int8", "bf16")]
        float_ = able[0] if build.precision == "int8" else build.precision
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[float_], "PERFORMANCE_HINT": build.policy.upper()}
        if build.threads is not None and _device(build) == "CPU":
            config["INFERENCE_NUM_THREADS"] = build.threads
        if build.streams is not None and _device(build) != "NPU":
            config["NUM_STREAMS"] = str(build.streams)
        return config


def _require_numbers(model: Any, build: Build) -> None:
    """A rectifier makes zero of NaN, so the outputs do not tell of it."""
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() in (ov.Type.f16, ov.Type.f32) and np.isnan(node.data).any():
            raise ModelFileError(
                f"{build.name}: the weight {node.get_friendly_name()!r} holds NaN; train or export the model again, or fetch it anew"
            )


class OpenVinoEngine(Engine):
    """A pool of inference requests, one for each call at once; further callers wait. The GIL is released while one runs.

    For throughput there is one request more than the device has streams: the next picture waits there while Python deals with the last.
    """

    backend = "openvino"

    def __init__(self, build: Build, compiled: Any, file: _Mapped) -> None:
        self.name = build.name
        self.precision = "int8" if build.precision in ("int8", "fp32") and _quantised(compiled) else precision(compiled)
        self.parallel = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) + (build.policy == "throughput")
        self.inputs = tuple(_spec(port, port.get_any_name()) for port in compiled.inputs)
        names = build.output_names([_names(port) for port in compiled.outputs])
        self.outputs = tuple(_spec(port, name) for port, name in zip(compiled.outputs, names, strict=True))
        requests = [compiled.create_infer_request() for _ in range(self.parallel)]
        shape = (build.batch, build.height, build.width, build.input.channels)
        calls = [_Call(request, shape, self.outputs) for request in requests]
        for request in requests:  # a stream builds its graph at its first inference: no picture shall wait for that
            request.start_async()
        for request in requests:
            request.wait()
        self._pool = Pool(self.name, calls)
        self._file = file
        file.let_go()

    def _input(self, spec: TensorSpec, given: Tensor | Writer) -> Any:
        return given

    def _read(self, tensors: Mapping[str, Tensor | Writer], reader: Callable[[Mapping[str, Tensor]], T]) -> T:
        call = self._pool.take()
        try:
            return reader(self._outputs(call, tensors[IMAGE]))
        finally:
            self._pool.give(call)

    def _outputs(self, call: _Call, image: Tensor | Writer) -> Mapping[str, Tensor]:
        try:
            return call.run(image)
        except RuntimeError as error:
            raise EngineError(f"{self.name}: OpenVINO failed: {said(error)}") from error

    def close(self) -> None:
        """Free the requests; those under way end first."""
        self._pool.close()


class _Mapped:
    """The file of an exported model as memory, which the imported model refers to for as long as it lives. Raises OSError, ValueError."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self.tensor = ov.Tensor(self._bytes, shared_memory=True)

    def let_go(self) -> None:
        """Once its streams have the weights in their own order, few pages are read again; those come back from the file."""
        self._map.madvise(mmap.MADV_DONTNEED)


class _Call:
    """An inference request, and its own memory for the picture: to copy one there costs less than to bind its memory.

    The outputs are the request's memory, too (`request.infer` would copy them).
    """

    def __init__(self, request: Any, shape: tuple[int, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._request = request
        self._specs = outputs
        self._own = self._bound = ov.Tensor(ov.Type.u8, ov.Shape(shape))
        self._picture: Tensor = self._own.data
        self._fixed = all(None not in spec.shape for spec in outputs)
        self._outputs: dict[str, Tensor] = {}
        request.set_input_tensor(0, self._own)

    def run(self, image: Tensor | Writer) -> Mapping[str, Tensor]:
        """Infer, and wait."""
        tensor = self._own
        if callable(image):
            image(self._picture)
        elif image.shape == self._picture.shape:
            np.copyto(self._picture, image)
        else:
            tensor = ov.Tensor(np.ascontiguousarray(image), shared_memory=True)
        if tensor is not self._bound:
            self._request.set_input_tensor(0, tensor)
            self._bound = tensor
        self._request.start_async()
        self._request.wait()
        if not self._outputs or not self._fixed:
            self._outputs = {spec.name: self._request.get_output_tensor(index).data for index, spec in enumerate(self._specs)}
        return self._outputs


@cache
def _core() -> ov.Core:
    """One of the process: each loads the plug-ins of all devices anew."""
    return ov.Core()


def _readable(build: Build) -> Path | bytes:
    """What OpenVINO reads: a path, or an 8-bit model as bytes in which several pictures lie side by side, where that is quicker."""
    if build.format == "openvino":
        return build.model / IR
    eight_bits = (build.format, build.precision, build.unit) == ("onnx", "int8", "cpu")
    pictures = next((number for number in SIDE_BY_SIDE if build.batch % number == 0), None)
    if not eight_bits or build.least is not None or pictures is None or find_spec("onnx") is None:
        return build.model
    from engines.convert.onnx_stacking import stacked

    return stacked(build.model, pictures) or build.model


def _device(build: Build) -> str:
    """Where OpenVINO computes a build."""
    return "CPU" if (build.unit, build.precision) == ("npu", "fp32") else build.unit.upper()


def precision(compiled: Any) -> str:
    """What a compiled model computes in, as the runtime says."""
    return _NAMES.get(str(compiled.get_property("INFERENCE_PRECISION_HINT").to_string()), "unknown")


def _quantised(compiled: Any) -> bool:
    """Whether the device multiplies by any weights in 8-bit integers. A model may be so without being asked: its file may be INT8."""
    for node in compiled.get_runtime_model().get_ops():
        kind = node.rt_info["layerType"].astype(str) if "layerType" in node.rt_info else ""
        if kind.lower().replace("_", "") in _WEIGHTED and node.rt_info["runtimePrecision"].astype(str) in ("i8", "u8"):
            return True
    return False


def _names(port: Any) -> list[str]:
    """The port's names, `get_any_name` first."""
    return [port.get_any_name(), *sorted(port.get_names())]


def _spec(port: Any, name: str) -> TensorSpec:
    dtype = np.dtype(port.get_element_type().to_dtype()).name
    return TensorSpec(name, dtype, tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape()))
