"""NVIDIA's GPUs, as the driver tells of them, and the few calls of the CUDA runtime that an engine needs."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineError, MissingRuntimeError

L4T = Path("/etc/nv_tegra_release")
MAJOR, MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*."""
NON_BLOCKING = 1
"""cudaStreamNonBlocking: not in step with the default stream, on which TensorRT synchronises more than it has to."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: its name, its compute capability, and the CUDA version of the driver (12.6 is 12060). `l4t`: release of a Jetson's system."""

    name: str
    capability: tuple[int, int]
    driver: int
    l4t: str = ""

    def __str__(self) -> str:
        major, minor = self.capability
        jetson = f", L4T {self.l4t}" if self.l4t else ""
        return f"{self.name}, compute {major}.{minor}, driver of CUDA {self.driver // 1000}.{self.driver % 1000 // 10}{jetson}"


@cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs that the driver sees; none where there is no driver. Creates no CUDA context."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count, version = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or driver.cuDriverGetVersion(ctypes.byref(version)):
        return ()
    release = l4t(L4T)
    found = []
    for number in range(count.value):
        device, name, major, minor = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
        driver.cuDeviceGet(ctypes.byref(device), number)
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceGetAttribute(ctypes.byref(major), MAJOR, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), MINOR, device)
        found.append(Gpu(name.value.decode("utf-8", "replace"), (major.value, minor.value), version.value, release))
    return tuple(found)


def l4t(file: Path) -> str:
    """The release of a Jetson's system, 36.4.3 for example; empty on other machines."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", file.read_text()) if file.is_file() else None
    return f"{found[1]}.{found[2]}" if found else ""


class Cuda:
    """Memory, streams and graphs of the first GPU. `runtime` calls as cuda-python does: each function gives its error code and results.

    Every method raises EngineError where CUDA reports an error.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    def _call(self, function: str, *arguments: Any) -> Any:
        code, *results = getattr(self._runtime, function)(*arguments)
        if int(code):
            said = self._runtime.cudaGetErrorString(code)[1]
            raise EngineError(f"CUDA: {function} failed with {int(code)} ({said.decode()}); `almena doctor` shows driver and runtime")
        return results[0] if len(results) == 1 else tuple(results)

    def free_memory(self) -> int:
        """Bytes that are free on the GPU; on a Jetson, in the memory that it shares with the processor."""
        return int(self._call("cudaMemGetInfo")[0])

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the GPU."""
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Give memory of the GPU back."""
        self._call("cudaFree", address)

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """`size` bytes of the host's memory that the GPU reads and writes by itself; `free_pinned` gives them back."""
        address = int(self._call("cudaHostAlloc", size, 0))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """Give back what `pinned` gave."""
        self._call("cudaFreeHost", memory.ctypes.data)

    def stream(self) -> int:
        """A new stream."""
        return int(self._call("cudaStreamCreateWithFlags", NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        """End a stream."""
        self._call("cudaStreamDestroy", stream)

    def synchronise(self, stream: int) -> None:
        """Wait for everything on the stream."""
        self._call("cudaStreamSynchronize", stream)

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Copy in the order of the stream."""
        self._call("cudaMemcpyAsync", device, host, size, self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice, stream)

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Copy in the order of the stream."""
        self._call("cudaMemcpyAsync", host, device, size, self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost, stream)

    def captured(self, stream: int, work: Callable[[], None]) -> Any:
        """A graph of what `work` puts on the stream; nothing of it runs yet. Other threads may use CUDA meanwhile."""
        self._call("cudaStreamBeginCapture", stream, self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except EngineError:
            self._runtime.cudaStreamEndCapture(stream)
            raise
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        """Put a graph on the stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Give a graph back."""
        self._call("cudaGraphExecDestroy", graph)


@cache
def cuda() -> Cuda:
    """The CUDA runtime: that of cuda-python, or the library itself. Raises MissingRuntimeError."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime
        except ImportError:
            runtime = _library()
    return Cuda(runtime)


def _library() -> Library:
    for path in _candidates():
        try:
            return Library(ctypes.CDLL(path))
        except OSError:
            continue
    raise MissingRuntimeError(
        "neither cuda-python nor CUDA's libcudart is here: pip install cuda-python, or install the CUDA runtime of your JetPack"
    )


def _candidates() -> Iterator[str]:
    """Where libcudart may be: with the wheels of the package index, or with the system."""
    spec = find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        yield from (str(path) for path in sorted(Path(folder).glob("*/lib/libcudart.so.*"), reverse=True))
    found = ctypes.util.find_library("cudart")
    yield from ([found] if found else [])
    yield "/usr/local/cuda/lib64/libcudart.so"


class Library:
    """libcudart, called as cuda-python calls it."""

    class cudaMemcpyKind:
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    class cudaStreamCaptureMode:
        cudaStreamCaptureModeThreadLocal = 1

    _POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    _FUNCTIONS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
        "cudaMemGetInfo": ((_SIZE, _SIZE), ()),
        "cudaMalloc": ((_POINTER,), (_SIZE,)),
        "cudaFree": ((), (_POINTER,)),
        "cudaHostAlloc": ((_POINTER,), (_SIZE, ctypes.c_uint)),
        "cudaFreeHost": ((), (_POINTER,)),
        "cudaStreamCreateWithFlags": ((_POINTER,), (ctypes.c_uint,)),
        "cudaStreamDestroy": ((), (_POINTER,)),
        "cudaStreamSynchronize": ((), (_POINTER,)),
        "cudaMemcpyAsync": ((), (_POINTER, _POINTER, _SIZE, _INT, _POINTER)),
        "cudaStreamBeginCapture": ((), (_POINTER, _INT)),
        "cudaGraphInstantiateWithFlags": ((_POINTER,), (_POINTER, ctypes.c_ulonglong)),
        "cudaGraphLaunch": ((), (_POINTER, _POINTER)),
        "cudaGraphDestroy": ((), (_POINTER,)),
        "cudaGraphExecDestroy": ((), (_POINTER,)),
    }
    """Results, which C takes as pointers before the arguments, and arguments."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.cudaGetErrorString.restype = ctypes.c_char_p
        for name, (results, arguments) in self._FUNCTIONS.items():
            getattr(library, name).argtypes = [*(ctypes.POINTER(kind) for kind in results), *arguments]

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if name not in self._FUNCTIONS:
            raise AttributeError(name)
        kinds, function = self._FUNCTIONS[name][0], getattr(self._library, name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            results = [kind() for kind in kinds]
            code = function(*(ctypes.byref(result) for result in results), *arguments)
            return (code, *(result.value for result in results))

        setattr(self, name, call)
        return call

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int | None]:
        """The one function whose result comes after its argument."""
        graph = ctypes.c_void_p()
        return self._library.cudaStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(graph)), graph.value

    def cudaGetErrorString(self, code: int) -> tuple[int, bytes]:
        """What an error code means."""
        return 0, self._library.cudaGetErrorString(code)
