"""TensorFlow: SavedModels through their serving signature. The baseline of comparisons."""

from __future__ import annotations

import os
import platform
import threading
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.base import FLOAT_INPUT, IMAGE, Backend, Build
from engines.base import Engine, EngineError, T, Tensor, TensorSpec
from engines.errors import MissingRuntimeError, ModelFileError, said

_PACKAGES = ("tensorflow", "tensorflow-cpu", "tensorflow-aarch64")
_SERVING = "serving_default"
_DRIVER = Path("/proc/driver/nvidia")
_setting_threads = threading.Lock()


class TensorFlowBackend(Backend):
    """Builds are SavedModels of one fixed shape whose serving signature begins with pre-processing."""

    name = "tensorflow"
    formats = ("savedmodel",)
    suffix = ".savedmodel"

    def version(self) -> str:
        """For example 2.21.0, without importing it."""
        for package in _PACKAGES:
            try:
                return version(package)
            except PackageNotFoundError:
                continue
        raise MissingRuntimeError("TensorFlow is not installed: pip install 'almena[tensorflow]'")

    def units(self) -> tuple[str, ...]:
        """The GPU where TensorFlow sees one, and the CPU. It is not asked where there is no driver: its import takes seconds."""
        return ("gpu", "cpu") if _DRIVER.exists() and tensorflow().config.list_physical_devices("GPU") else ("cpu",)

    def device(self, unit: str) -> str:
        """The kind of processor and its threads, or the GPU's name."""
        if unit == "cpu":
            return f"CPU {platform.machine()}, {os.cpu_count()} threads"
        first = tensorflow().config.list_physical_devices("GPU")[0]
        return str(tensorflow().config.experimental.get_device_details(first).get("device_name", first.name))

    def precisions(self, unit: str) -> tuple[str, ...]:
        """fp32."""
        return ("fp32",)

    def build(self, build: Build, target: Path) -> None:
        """Put pre-processing in front of the serving signature, fix the shape, and save."""
        tf = tensorflow()
        loaded = _loaded(build, build.model)
        own = _signature(build, loaded)
        ((name, only),) = own.structured_input_signature[1].items()
        if not only.dtype.is_floating:
            raise ModelFileError(f"{build.name}: input {name!r} of {build.model.name} is {only.dtype.name}; {FLOAT_INPUT}")
        shape = (build.batch, build.height, build.width, build.input.channels)

        served = tf.Module()
        served.own = loaded
        served.serve = tf.function(
            lambda image: own(**{name: _fed(tf, image, build)}), input_signature=[tf.TensorSpec(shape, tf.uint8, IMAGE)]
        )
        try:
            tf.saved_model.save(served, str(target), signatures={_SERVING: served.serve})
        except (ValueError, TypeError, tf.errors.OpError) as error:
            raise ModelFileError(
                f"{build.name}: input {name!r} of {build.model.name} cannot take {shape} {build.input.layout}: {said(error)}"
            ) from error

    def load(self, build: Build, built: Path) -> Engine:
        """Load the SavedModel. TensorFlow's threads are those of the process: the first engine sets them."""
        _set_threads(build)
        try:
            return TensorFlowEngine(build, _loaded(build, built))
        except ModelFileError as error:
            raise EngineError(f"{error}; delete {built.name} to have it rebuilt") from error


class TensorFlowEngine(Engine):
    """The serving signature of a loaded SavedModel, which is thread-safe and releases the GIL while it runs."""

    backend = "tensorflow"

    def __init__(self, build: Build, loaded: Any) -> None:
        self.name = build.name
        self.precision = "fp32"
        self.parallel = build.streams or ((build.threads or os.cpu_count() or 1) if build.policy == "throughput" else 1)
        self._device = f"/{build.unit.upper()}:0"
        serve = _signature(build, loaded)
        self.inputs = tuple(_spec(name, tensor) for name, tensor in serve.structured_input_signature[1].items())
        self._own_names = sorted(serve.structured_outputs)
        names = build.output_names([[name] for name in self._own_names])
        self.outputs = tuple(_spec(name, serve.structured_outputs[own]) for name, own in zip(names, self._own_names, strict=True))
        self._serving: tuple[Any, Any] | None = (loaded, serve)

    def _read(self, tensors: Mapping[str, Tensor], reader: Callable[[Mapping[str, Tensor]], T]) -> T:
        tf, serving = tensorflow(), self._serving
        if serving is None:
            raise EngineError(f"{self.name}: the engine is closed")
        try:
            with tf.device(self._device):
                found = serving[1](**{IMAGE: tf.constant(np.ascontiguousarray(tensors[IMAGE]))})
                results = {spec.name: found[own].numpy() for spec, own in zip(self.outputs, self._own_names, strict=True)}
        except tf.errors.OpError as error:
            raise EngineError(f"{self.name}: TensorFlow failed: {said(error)}") from error
        return reader(results)

    def close(self) -> None:
        """Let the model go; calls under way end first."""
        self._serving = None


@cache
def tensorflow() -> Any:
    """The module tensorflow, quiet. It takes only as much of a GPU's memory as it needs. Raises MissingRuntimeError."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow as tf
    except ModuleNotFoundError as error:
        raise MissingRuntimeError("TensorFlow is not installed: pip install 'almena[tensorflow]'") from error
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf


def _set_threads(build: Build) -> None:
    threading_of = tensorflow().config.threading
    every = os.cpu_count() or 1
    wanted = build.threads or every
    with _setting_threads:
        if wanted == (threading_of.get_intra_op_parallelism_threads() or every):
            return
        try:
            threading_of.set_intra_op_parallelism_threads(wanted)
            threading_of.set_inter_op_parallelism_threads(wanted)
        except RuntimeError as error:
            raise EngineError(
                f"{build.name}: TensorFlow runs on {threading_of.get_intra_op_parallelism_threads() or every} threads in this process,"
                f" and {wanted} are asked for: they are set once a process. Start anew, or ask for the same number for every engine."
            ) from error


def _loaded(build: Build, path: Path) -> Any:
    tf = tensorflow()
    try:
        with tf.device(f"/{build.unit.upper()}:0"):
            return tf.saved_model.load(str(path))
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, tf.errors.OpError) as error:
        raise ModelFileError(
            f"{build.name}: TensorFlow {tf.__version__} cannot load {path.name}: {said(error)}."
            " If it is damaged, delete it and fetch it again; if an operator is unknown, choose another backend."
        ) from error


def _signature(build: Build, loaded: Any) -> Any:
    """The serving signature, or the only one, of one input."""
    names = [name for name in getattr(loaded, "signatures", {}) if name != "__saved_model_init_op"]
    if _SERVING not in names and len(names) != 1:
        raise ModelFileError(
            f"{build.name}: {build.model.name} has the signatures {names or 'none'}, and no {_SERVING}; export it with one"
        )
    found = loaded.signatures[_SERVING if _SERVING in names else names[0]]
    if len(found.structured_input_signature[1]) != 1:
        raise ModelFileError(f"{build.name}: {build.model.name} has {len(found.structured_input_signature[1])} inputs, not one picture")
    return found


def _fed(tf: Any, image: Any, build: Build) -> Any:
    """(x - mean) / scale, colour order and layout, from bytes to the model's input."""
    numbers = tf.cast(image, tf.float32)
    if build.input.colour == "RGB":
        numbers = tf.reverse(numbers, [3])
    numbers = (numbers - tf.constant(build.input.mean, tf.float32)) / tf.constant(build.input.scale, tf.float32)
    return tf.transpose(numbers, [0, 3, 1, 2]) if build.input.layout == "NCHW" else numbers


def _spec(name: str, tensor: Any) -> TensorSpec:
    return TensorSpec(name, tensor.dtype.name, tuple(tensor.shape.as_list()))
