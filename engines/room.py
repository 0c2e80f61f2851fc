"""Whether a device has the memory and the disk that a build takes, asked before it begins."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from engines.errors import EngineError

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Factor:
    """Of a step: megabytes that it takes at its peak, and how many times the model's size on top of them."""

    base_mb: float
    times: float


CONVERTING = {
    "onnx-from-dlib-1": Factor(150, 4),
    "onnx-from-onnx-1": Factor(150, 4),
    "savedmodel-from-keras-1": Factor(700, 4),
    "onnx-from-savedmodel-1": Factor(800, 7),
    "onnx-from-tflite-1": Factor(800, 7),
    "tflite-from-savedmodel-1": Factor(800, 5),
    "openvino-from-any-1": Factor(200, 3),
}
BUILDING = {
    "openvino": Factor(200, 5),
    "onnxruntime": Factor(150, 6),
    "litert": Factor(100, 5),
    "tensorflow": Factor(700, 5),
    "tensorrt": Factor(1500, 6),
}
"""Measured with ResNet-50 (102 MB) and VGG-16 (553 MB) on x86-64 and rounded up; TensorRT's is NVIDIA's advice, not measured here."""

DISK_TIMES = 3
"""A built engine, the one that is being written, and the FP32 one that it is compared with. A conversion takes up to twice the size."""


def require_room(name: str, size: int, routes: tuple[str, ...], backend: str, models_dir: Path, engines_dir: Path) -> None:
    """Raise EngineError where the model of `size` bytes cannot be converted by `routes` and built by `backend` in what is free here."""
    wanted = max(_bytes(CONVERTING[route], size) for route in routes) if routes else 0
    wanted = max(wanted, _bytes(BUILDING[backend], size))
    free = available_memory()
    if wanted > free:
        raise EngineError(
            f"{name}: converting and building it takes about {wanted / 1e6:.0f} MB of memory, and {free / 1e6:.0f} MB are free here."
            " Stop what else runs, or convert it to ONNX or TFLite on a larger machine."
        )
    needs = {models_dir: size * 2 * len(routes), engines_dir: size * DISK_TIMES}
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
