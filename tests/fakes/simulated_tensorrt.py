"""A `tensorrt` module of a given version: what can be called is what the real bindings of that version have; OpenVINO computes.

It follows NVIDIA's documentation in what it demands: an explicit batch where there is a flag for it, profiles for free shapes, no precision
flags in a strongly typed network, all shapes and addresses before a call, a stream that is not the default one. Every call is recorded.
"""

from __future__ import annotations

import ctypes
import json
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import openvino as ov

from tests.fakes.simulated_bindings import Sim, State, bound, enumeration
from tests.fakes.simulated_cuda import SimulatedCuda

KNOWN = {"", "ai.onnx"}
PLAN = b"simulated plan "
NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT64": np.int64,
}


def simulated(surface: dict[str, Any], cuda: SimulatedCuda) -> ModuleType:
    """The module. `module.calls` are the calls so far: class, name, arguments."""
    module: Any = ModuleType("tensorrt")
    module.__version__ = surface["version"]
    module.calls = []
    module.dla_cores = 2
    state = State(module, cuda, surface)
    for name, found in surface["classes"].items():
        if any(member["kind"] == "enum" for member in found["members"].values()):
            setattr(module, name, enumeration(name, found))
    for kind in (ILogger, Builder, INetworkDefinition, ILayer, IBuilderConfig, IOptimizationProfile, ITimingCache, IHostMemory, OnnxParser,
                 ParserError, Runtime, ICudaEngine, EngineInspector, IExecutionContext):  # fmt: skip
        setattr(module, kind.__name__, bound(kind, surface["classes"][kind.__name__], state))
    if "nptype" in surface["functions"]:
        module.nptype = lambda kind: NUMPY[kind.name] if kind.name in NUMPY else _raise(TypeError(kind.name))
    return module


def _raise(error: Exception) -> Any:
    raise error


class ILogger(Sim):
    def __init__(self) -> None:
        pass

    def log(self, severity: Any, msg: str) -> None:
        raise AssertionError("a logger says for itself what to do")


class _Logging(Sim):
    def __init__(self, logger: Any) -> None:
        assert isinstance(logger, self._state.module.ILogger)
        self._logger = logger

    def _error(self, text: str) -> None:
        self._logger.log(self._state.module.ILogger.Severity.ERROR, text)


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class ITimingCache(Sim):
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> bytes:
        return self._content + b"timed"


class IOptimizationProfile(Sim):
    def __init__(self) -> None:
        self._shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class ILayer(Sim):
    def __init__(self, name: str) -> None:
        object.__setattr__(self, "name", name)


class INetworkDefinition(Sim):
    def __init__(self, flags: int) -> None:
        self._flags = flags
        self._model: onnx.ModelProto | None = None

    @property
    def num_layers(self) -> int:
        return len(self._model.graph.node) if self._model else 0

    def get_layer(self, index: int) -> Any:
        assert self._model
        node = self._model.graph.node[index]
        return self._new("ILayer", f"{node.op_type} {node.output[0]}")


class ParserError(Sim):
    def __init__(self, text: str, node: int, name: str) -> None:
        self._text, self._node, self._name = text, node, name

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return self._node

    def node_name(self) -> str:
        return self._name


class OnnxParser(_Logging):
    def __init__(self, network: Any, logger: Any) -> None:
        _Logging.__init__(self, logger)
        self._network = network
        self._faults: list[Any] = []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        parsed = onnx.load_from_string(bytes(model))
        for index, node in enumerate(parsed.graph.node):
            if node.domain not in KNOWN:
                self._faults.append(self._new("ParserError", f"No importer registered for op: {node.op_type}", index, node.name or "odd"))
        self._network._model = parsed
        return not self._faults

    @property
    def num_errors(self) -> int:
        return len(self._faults)

    def get_error(self, index: int) -> Any:
        return self._faults[index]


class IBuilderConfig(Sim):
    def __init__(self) -> None:
        self._flags: set[Any] = {self._state.module.BuilderFlag.TF32}
        self._profiles: list[Any] = []
        self._pools: dict[Any, int] = {}
        self._cache: Any = None

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        return self._new("ITimingCache", bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if b"other" in cache._content and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache

    def can_run_on_DLA(self, layer: Any) -> bool:
        return not layer.name.startswith("Cast")


class Builder(_Logging):
    @property
    def num_DLA_cores(self) -> int:
        return int(self._state.module.dla_cores)

    def create_network(self, flags: int = 0) -> Any:
        kinds = self._state.module.NetworkDefinitionCreationFlag
        assert flags < 1 << (max(kinds) + 1)
        if hasattr(kinds, "EXPLICIT_BATCH") and self._state.module.__version__.startswith("8."):
            assert flags & 1 << kinds.EXPLICIT_BATCH, "ONNX needs an explicit batch"
        return self._new("INetworkDefinition", flags)

    def create_builder_config(self) -> Any:
        return self._new("IBuilderConfig")

    def create_optimization_profile(self) -> Any:
        return self._new("IOptimizationProfile")

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        fault = self._fault(network, config)
        if fault:
            self._error(fault)
            return None
        dla = getattr(config, "default_device_type", None) == self._state.module.DeviceType.DLA
        if dla:
            self._logger.log(self._state.module.ILogger.Severity.INFO, "[GpuLayer] CAST: almena_0")
        told = {
            "version": self._state.module.__version__,
            "kind": self._kind(network._model, config._flags),
            "profiles": [profile._shapes for profile in config._profiles],
            "detailed": getattr(config, "profiling_verbosity", None) == self._state.module.ProfilingVerbosity.DETAILED,
            "dla": config.DLA_core if dla else None,
        }
        return self._new("IHostMemory", PLAN + json.dumps(told).encode() + b"\n" + network._model.SerializeToString())

    def _fault(self, network: Any, config: Any) -> str:
        model, module = network._model, self._state.module
        names = {flag.name for flag in config._flags}
        kinds = module.NetworkDefinitionCreationFlag
        strong = not hasattr(module.BuilderFlag, "FP16") or bool(
            hasattr(kinds, "STRONGLY_TYPED") and network._flags & 1 << kinds.STRONGLY_TYPED
        )
        quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        if strong and names & {"FP16", "BF16", "INT8"}:
            return "Precision flags cannot be set in a strongly typed network"
        if quantised and not strong and "INT8" not in names:
            return "Layer has INT8 tensors but the INT8 flag is not set"
        free = any(not dim.HasField("dim_value") for dim in model.graph.input[0].type.tensor_type.shape.dim)
        if free and not config._profiles:
            return "Network has dynamic or shape inputs, but no optimization profile has been defined."
        if not config._pools.get(module.MemoryPoolType.WORKSPACE):
            return "the workspace was not limited"
        return ""

    @staticmethod
    def _kind(model: onnx.ModelProto, flags: set[Any]) -> str:
        """What the inspector will tell of the layers' outputs."""
        if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
            return "Int8"
        types = {weight.data_type for weight in model.graph.initializer}
        names = {flag.name for flag in flags}
        if "FP16" in names or onnx.TensorProto.FLOAT16 in types:
            return "Half"
        return "BFloat16" if "BF16" in names or onnx.TensorProto.BFLOAT16 in types else "Float"


class Runtime(_Logging):
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        content = bytes(serialized_engine)
        if not content.startswith(PLAN):
            self._error("Serialization assertion plan->header.magicTag failed.")
            return None
        header, _, model = content.removeprefix(PLAN).partition(b"\n")
        told = json.loads(header)
        assert told["dla"] is None or told["dla"] == self.DLA_core
        return self._new("ICudaEngine", told, model)


class ICudaEngine(Sim):
    def __init__(self, told: dict[str, Any], model: bytes) -> None:
        self._told = told
        self._compiled = ov.Core().compile_model(ov.Core().read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        graph = onnx.load_from_string(model).graph
        self._results = [value.name for value in graph.output]
        self._ports = dict(zip([graph.input[0].name, *self._results], (*self._compiled.inputs, *self._compiled.outputs), strict=True))
        self._contexts = 0

    @property
    def num_io_tensors(self) -> int:
        return len(self._ports)

    def get_tensor_name(self, index: int) -> str:
        return list(self._ports)[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._state.module.TensorIOMode
        return modes.OUTPUT if name in self._results else modes.INPUT

    def get_tensor_shape(self, name: str) -> Any:
        return [dim.get_length() if dim.is_static else -1 for dim in self._ports[name].get_partial_shape()]

    def get_tensor_dtype(self, name: str) -> Any:
        names = {"float32": "FLOAT", "uint8": "UINT8", "int64": "INT64", "float16": "HALF"}
        return getattr(self._state.module.DataType, names[np.dtype(self._ports[name].get_element_type().to_dtype()).name])

    def create_execution_context(self) -> Any:
        self._contexts += 1
        return self._new("IExecutionContext", self) if self._contexts < 9 else None

    def create_engine_inspector(self) -> Any:
        return self._new("EngineInspector", self._told)


class EngineInspector(Sim):
    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def get_engine_information(self, format: Any) -> str:
        assert format == self._state.module.LayerInformationFormat.JSON
        layer = {"Name": "conv", "Outputs": [{"Name": "y", "Format/Datatype": self._told["kind"]}]}
        start = {"Name": "cast", "Outputs": [{"Name": "x", "Format/Datatype": "Row major linear UInt8"}]}
        return json.dumps({"Layers": [start, layer] if self._told["detailed"] else ["cast", "conv"], "Bindings": ["image"]})


class IExecutionContext(Sim):
    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._profile: int | None = None if engine._told["profiles"] else 0
        self._shape: tuple[int, ...] | None = None
        self._known = False
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return profile_index < len(self._engine._told["profiles"]) and stream_handle != 0

    def set_input_shape(self, name: str, shape: Any) -> bool:
        assert self._profile is not None, "a profile comes first"
        wanted = self._engine.get_tensor_shape(name)
        profiles = self._engine._told["profiles"]
        if len(shape) != len(wanted) or any(want not in (-1, got) for want, got in zip(wanted, shape, strict=True)):
            return False
        if profiles:
            least, _, most = profiles[self._profile][name]
            if not all(low <= got <= high for low, got, high in zip(least, shape, most, strict=True)):
                return False
        self._shape, self._known = tuple(shape), False
        return True

    def infer_shapes(self) -> list[str]:
        self._known = self._shape is not None
        return [] if self._known else ["image"]

    def get_tensor_shape(self, name: str) -> Any:
        if not self._known or name == "image":
            return self._shape
        return tuple(self._run(np.zeros(self._shape, np.uint8))[name].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda = self._state.cuda
        assert stream_handle in cuda.streams, "the default stream"
        assert self._known, "the shapes come first"
        assert set(self._addresses) == set(self._engine._ports), "every tensor has an address"
        shape, addresses = self._shape, dict(self._addresses)
        assert shape is not None
        assert cuda.spans(addresses["image"], prod(shape), "device")

        def work() -> None:
            image = np.ctypeslib.as_array((ctypes.c_uint8 * prod(shape)).from_address(addresses["image"])).reshape(shape)
            for name, value in self._run(image.copy()).items():
                assert cuda.spans(addresses[name], value.nbytes, "device")
                ctypes.memmove(addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)

        cuda.enqueue(stream_handle, work)
        return True

    def _run(self, image: Any) -> dict[str, Any]:
        compiled = self._engine._compiled
        results = compiled.create_infer_request().infer([image])
        return {name: results[self._engine._ports[name]] for name in self._engine._results}
