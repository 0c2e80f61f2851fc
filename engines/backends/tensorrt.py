"""TensorRT on NVIDIA's GPUs and deep learning accelerators (DLA), versions 8.5 to 11. Not run on hardware yet: see docs/engines.md."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import tensorrt as trt

from engines.backends import trtexec
from engines.backends.base import Backend, Build
from engines.backends.cuda import Gpu, cuda, gpus
from engines.backends.trt_build import contexts, dla_core, model_of, new_builder, plan, weakly_typed
from engines.backends.trt_engine import TensorRtEngine
from engines.backends.trt_log import LOG
from engines.base import Engine, EngineError

MAGIC = b"ALMENA-TENSORRT-1\n"


class TensorRtBackend(Backend):
    """Builds are plans behind a line that says which TensorRT made them for which device."""

    name = "tensorrt"
    formats = ("onnx",)
    suffix = ".plan"
    flavour = "s8s8"

    def version(self) -> str:
        """For example 10.16.1.11."""
        return str(trt.__version__)

    def units(self) -> tuple[str, ...]:
        """The first GPU, and the DLAs beside it that this TensorRT can use."""
        return ("gpu", *(f"dla{core}" for core in range(_dla_cores()))) if gpus() else ()

    def missing(self) -> dict[str, str]:
        """The GPU, where there is none or no driver for it; on a Jetson the DLAs, where this TensorRT has none."""
        if not gpus():
            return {"gpu": "no NVIDIA GPU or no driver for it"}
        return {"dla": "this TensorRT or this board has none"} if gpus()[0].l4t and not _dla_cores() else {}

    def device(self, unit: str) -> str:
        """The GPU, its driver, and on a Jetson the system's release."""
        return str(_gpu()) if unit == "gpu" else f"DLA {dla_core(unit)} beside {_gpu()}"

    def precisions(self, unit: str) -> tuple[str, ...]:
        """By the GPU's compute capability. A DLA has fp16 alone; its fp32 is what the GPU computes in its place."""
        capability = _gpu().capability
        if unit != "gpu":
            return ("fp16", "fp32")
        able = {"int8": capability >= (7, 2), "fp16": capability >= (7, 0), "bf16": capability >= (8, 0) and hasattr(trt.DataType, "BF16")}
        return (*(name for name, there in able.items() if there), "fp32")

    def build(self, build: Build, target: Path) -> None:
        """Read the ONNX file, optimise it for the device, and write the plan."""
        major, minor = _gpu().capability
        made = plan(build, cuda(), target.parent / f"tensorrt-{trt.__version__}-sm{major}{minor}.timings")
        header = json.dumps({"tensorrt": self.version(), "device": self.device(build.unit)}).encode()
        with target.open("wb") as file:
            file.write(MAGIC + header + b"\n")
            file.write(made)

    def load(self, build: Build, built: Path) -> Engine:
        """Deserialise the plan and make its contexts."""
        content = self._content(build, built)
        LOG.clear()
        try:
            runtime = trt.Runtime(LOG)
        except TypeError as error:
            raise EngineError(f"{build.name}: TensorRT {trt.__version__} does not start: {LOG.errors()}; see `almena doctor`") from error
        if build.unit != "gpu":
            runtime.DLA_core = dla_core(build.unit)
        engine: Any = runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise EngineError(
                f"{build.name}: TensorRT {trt.__version__} cannot load {built.name}: {LOG.errors()}; delete it to have it rebuilt"
            )
        return TensorRtEngine(build, cuda(), runtime, engine)

    def cross_check(self, build: Build) -> trtexec.Figures | None:
        """By trtexec, with as many calls at once as ours; None where it is not installed. Raises EngineError."""
        program = trtexec.find()
        if program is None:
            return None
        return trtexec.measure(program, replace(build, streams=contexts(build)), model_of(build), weakly_typed(build))

    def _content(self, build: Build, built: Path) -> bytes:
        """The plan itself. Raises EngineError where another TensorRT made it, or for another device."""
        content = built.read_bytes()
        header, _, made = content.removeprefix(MAGIC).partition(b"\n")
        if not content.startswith(MAGIC) or not made:
            raise EngineError(f"{build.name}: {built.name} is no TensorRT engine of Almena's, or cut off; delete it to have it rebuilt")
        by = json.loads(header)
        here = {"tensorrt": self.version(), "device": self.device(build.unit)}
        if by != here:
            raise EngineError(
                f"{build.name}: {built.name} was built by TensorRT {by['tensorrt']} for {by['device']}; here are TensorRT"
                f" {here['tensorrt']} and {here['device']}; delete it to have it rebuilt"
            )
        return made


def _gpu() -> Gpu:
    if not gpus():
        raise EngineError(f"TensorRT {trt.__version__}: no NVIDIA GPU or no driver for it; `almena doctor` shows what is here")
    return gpus()[0]


@cache
def _dla_cores() -> int:
    """Asked of TensorRT on a Jetson only: it takes a second."""
    return int(new_builder().num_DLA_cores) if gpus() and gpus()[0].l4t else 0
