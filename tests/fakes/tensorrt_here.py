"""Almena's TensorRT backend on a simulated GPU, with the interface of a real TensorRT version."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from engines.backends import cuda as cuda_calls
from engines.backends.base import Backend
from engines.registry import BACKENDS, resolve
from tests.fakes.nvidia_packages import surface
from tests.fakes.simulated_cuda import SimulatedCuda
from tests.fakes.simulated_tensorrt import simulated

ORIN = cuda_calls.Gpu("Simulated Orin", (8, 7), 12060, "36.4.3")


@dataclass
class Simulation:
    """The backend, the module that stands for `tensorrt`, and its CUDA."""

    backend: Backend
    tensorrt: Any
    cuda: SimulatedCuda


@contextmanager
def tensorrt_here(version: str, cache_dir: Path) -> Iterator[Simulation]:
    """In this block, `tensorrt` is of that version and there is a GPU for it."""
    cuda = SimulatedCuda()
    module = simulated(surface(version, cache_dir), cuda)
    ours = [name for name in sys.modules if name.startswith(("engines.backends.trt_", "engines.backends.tensorrt"))]
    with (
        patch.dict(sys.modules, {"tensorrt": module}),
        patch.object(cuda_calls, "gpus", lambda: (ORIN,)),
        patch.object(cuda_calls, "cuda", lambda: cuda_calls.Cuda(cuda)),
    ):
        for name in ours:
            del sys.modules[name]
        try:
            yield Simulation(resolve(BACKENDS, "tensorrt", "backend")(), module, cuda)
        finally:
            for name in [name for name in sys.modules if name.startswith(("engines.backends.trt_", "engines.backends.tensorrt"))]:
                del sys.modules[name]
