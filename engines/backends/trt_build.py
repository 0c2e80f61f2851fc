"""From an ONNX file to a TensorRT plan, with whatever the version at hand offers.

TensorRT up to 10 chooses kernels of the precisions that flags allow (weak typing); from 11 on, and for quantised models from 10 on, the
types in the file decide (strong typing). Source: NVIDIA, TensorRT Developer Guide and Python API of 8.6, 10.3, 10.16 and 11.4.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import tensorrt as trt

from engines.backends.base import IMAGE, Build
from engines.backends.cuda import Cuda
from engines.backends.trt_log import LOG
from engines.convert.onnx_floats import in_halves
from engines.convert.onnx_input import NORMALISED, with_picture_input
from engines.errors import EngineError, ModelFileError
from engines.files import replacing

log = logging.getLogger(__name__)

FLAGS = {"fp16": ("FP16",), "bf16": ("BF16",), "int8": ("INT8", "FP16")}
WORKSPACE = 0.5
"""Of the free memory: TensorRT's own limit is all of it, which a Jetson shares with everything else."""


def weakly_typed(build: Build) -> bool:
    """Whether flags, not the types in the file, say what is computed in."""
    return hasattr(trt.BuilderFlag, "FP16") and not (build.precision == "int8" and _strong_flag())


def plan(build: Build, cuda: Cuda, timings: Path) -> Any:
    """A serialised engine, as a buffer. `timings` keeps what TensorRT measured of kernels. Raises EngineError, ModelFileError."""
    LOG.clear()
    builder = new_builder()
    network = builder.create_network(_network_flags(build))
    _parse(build, network)
    config = _config(build, builder, cuda)
    _read_timings(config, timings)
    made = builder.build_serialized_network(network, config)
    if made is None:
        raise EngineError(
            f"{build.name}: TensorRT {trt.__version__} cannot build {build.model.name} at {build.precision} for {build.unit}:"
            f" {LOG.errors()}. If memory ran out, free some; else choose another precision or backend."
        )
    _write_timings(config, timings)
    if build.unit != "gpu":
        _tell_fallback(build, network, config)
    return made


def new_builder() -> Any:
    """TensorRT's builder. Raises EngineError where it cannot start, for example without a driver."""
    try:
        return trt.Builder(LOG)
    except TypeError as error:
        raise EngineError(f"TensorRT {trt.__version__} does not start: {LOG.errors()}; `almena doctor` shows driver and runtime") from error


def _strong_flag() -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    return 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0


def _network_flags(build: Build) -> int:
    kinds = trt.NetworkDefinitionCreationFlag
    flags = 1 << int(kinds.EXPLICIT_BATCH) if hasattr(kinds, "EXPLICIT_BATCH") else 0
    return flags if weakly_typed(build) else flags | _strong_flag()


def model_of(build: Build) -> bytes:
    """The ONNX file that TensorRT is given: with pre-processing, and in the types that it shall compute in where those decide."""
    content = with_picture_input(build)
    if weakly_typed(build) or build.precision == "fp32":
        return content
    return in_halves(content, "bf16" if build.precision == "bf16" else "fp16", NORMALISED)


def _parse(build: Build, network: Any) -> None:
    parser = trt.OnnxParser(network, LOG)
    if parser.parse(model_of(build)):
        return
    faults = [parser.get_error(index) for index in range(parser.num_errors)]
    told = "; ".join(f"{_node(fault)}: {fault.desc()}" for fault in faults) or LOG.errors()
    raise ModelFileError(
        f"{build.name}: TensorRT {trt.__version__} cannot read {build.model.name}: {' '.join(told.split())[:600]}."
        " If an operator is unknown, choose another backend."
    )


def _node(fault: Any) -> str:
    name = fault.node_name() if hasattr(fault, "node_name") else ""
    return f"node {name!r}" if name else f"node {fault.node()}"


def _config(build: Build, builder: Any, cuda: Cuda) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(cuda.free_memory() * WORKSPACE))
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if build.precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    if weakly_typed(build):
        for flag in FLAGS.get(build.precision, ()):
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if build.unit != "gpu":
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = dla_core(build.unit)
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if build.least is not None:
        shape = (build.height, build.width, build.input.channels)
        for _ in range(contexts(build)):
            profile = builder.create_optimization_profile()
            profile.set_shape(IMAGE, (build.least, *shape), (build.batch, *shape), (build.batch, *shape))
            config.add_optimization_profile(profile)
    return config


def dla_core(unit: str) -> int:
    """The number in `dla0` or `dla1`."""
    return int(unit.removeprefix("dla"))


def contexts(build: Build) -> int:
    """Calls at once. Two keep a GPU busy while one call's pictures and results are copied."""
    return build.streams or (2 if build.policy == "throughput" else 1)


def _read_timings(config: Any, timings: Path) -> None:
    """Start from earlier measurements; those of another TensorRT or GPU are left aside."""
    cache = config.create_timing_cache(timings.read_bytes() if timings.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        log.info("%s does not fit this TensorRT or GPU and is begun anew", timings.name)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)


def _write_timings(config: Any, timings: Path) -> None:
    cache = config.get_timing_cache()
    if cache is not None:
        with replacing(timings) as temporary:
            temporary.write_bytes(cache.serialize())


def _tell_fallback(build: Build, network: Any, config: Any) -> None:
    """Which layers run on the GPU after all: as TensorRT logged it, or else as it says of each layer of the network."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    fallen = LOG.on_gpu() or [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
    if fallen:
        shown = ", ".join(fallen[:8]) + (" …" if len(fallen) > 8 else "")
        log.warning("%s: %d of %d layers run on the GPU, not on %s: %s", build.name, len(fallen), len(layers), build.unit, shown)
