"""Whether a device has the memory and the disk that a build takes, asked before it begins."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path

import psutil

from engines.errors import EngineError

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Factor:
    """Of a step: megabytes that it takes at its peak, how many times the model's size on top of them, and how the size changes."""

    base_mb: float
    times: float
    grows: float = 1.0


CONVERTING = {
    "onnx-from-dlib-1": Factor(150, 4),
    "onnx-from-onnx-1": Factor(150, 4),
    "savedmodel-from-keras-1": Factor(600, 5, 2.0),
    "onnx-from-savedmodel-1": Factor(1100, 4),
    "onnx-from-tflite-1": Factor(800, 42),
    "tflite-from-savedmodel-1": Factor(800, 5),
    "openvino-from-any-1": Factor(150, 4),
}
BUILDING = {
    "openvino": Factor(150, 3),
    "onnxruntime": Factor(100, 5),
    "litert": Factor(100, 2),
    "tensorflow": Factor(650, 3),
    "tensorrt": Factor(1500, 6),
}
"""Rounded up from ResNet-50 (103 MB as .keras, 207 MB as SavedModel, 102 MB as ONNX or TFLite) on x86-64, peaks of resident memory:
Keras to SavedModel 969 MB (VGG-16, 554 MB: 3330 MB), TFLite to ONNX 5040 MB, SavedModel to TFLite 1689 MB; SavedModel to ONNX from
EfficientNet-B0 (1850 MB) and VGG-16 (5.0 GB; 1107 MB as SavedModel), and the least that it takes: where most weights are not in large
matrices it is more, and the conversion itself looks once it has seen them (`convert.tensorflow_weights`); building for OpenVINO 423 MB,
ONNX Runtime 567 MB, LiteRT 266 MB, TensorFlow 1194 MB. Those of dlib, ONNX, OpenVINO IR and TensorRT are guesses."""

LEAST = BUILDING["litert"]
"""For a backend of which nothing is known here, because others registered it."""
DISK_TIMES = 3
"""A built engine, the one that is being written, and the FP32 one that it is compared with."""


INPUT_BYTES = 5
"""Of each number of the input: the picture's byte and the float that a model is fed with. What layers make of it comes on top."""


def require_room(
    name: str, size: int, routes: tuple[str, ...], backend: str, shape: tuple[int, int, int, int], models_dir: Path, engines_dir: Path
) -> None:
    """Raise EngineError where the model of `size` bytes cannot be converted by `routes` and built by `backend` in what is free here.

    `shape` of its input: batch, height, width, channels.
    """
    wanted = kept = 0
    for route in routes:
        wanted, size = max(wanted, _bytes(CONVERTING[route], size)), int(size * CONVERTING[route].grows)
        kept += size
    fed = prod(shape) * INPUT_BYTES
    wanted = max(wanted, _bytes(BUILDING.get(backend, LEAST), size) + fed)
    free = available_memory()
    if wanted > free:
        raise EngineError(
            f"{name}: converting and building it takes about {wanted / 1e6:.0f} MB of memory, and {free / 1e6:.0f} MB are free here;"
            f" its input alone ({shape[2]}x{shape[1]}, batch {shape[0]}) takes {fed / 1e6:.0f} MB."
            " Stop what else runs, take a smaller shape or batch, or convert it to ONNX or TFLite on a larger machine."
        )
    needs = {models_dir: kept, engines_dir: size * DISK_TIMES}
    for folder, bytes_ in needs.items():
        require_disk(name, bytes_, folder)


def require_disk(name: str, size: int, folder: Path) -> None:
    """Raise EngineError unless `size` more bytes fit into `folder`, which need not be there yet."""
    there = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise EngineError(
            f"{name}: {folder} needs {size / 1e6:.0f} MB more, and {free / 1e6:.0f} MB are free; delete what is not needed there"
        )


def available_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its control group where that has a limit."""
    free = psutil.virtual_memory().available
    limit, used = CGROUP / "memory.max", CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()).isdigit():
        free = min(free, int(most) - int(used.read_text()))
    return int(free)


def _bytes(factor: Factor, size: int) -> int:
    return int(factor.base_mb * 1e6 + factor.times * size)
