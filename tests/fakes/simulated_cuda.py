"""A CUDA runtime in the host's memory, called as cuda-python is: streams queue work, graphs replay it, and every misuse is an error."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from threading import Lock
from typing import Any

Work = Callable[[], None]
MEMORY = 8 << 30


class SimulatedCuda:
    """The functions of cuda.bindings.runtime that Almena calls. `calls` are their names, in order."""

    class cudaMemcpyKind(IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    class cudaStreamCaptureMode(IntEnum):
        cudaStreamCaptureModeThreadLocal = 1

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, Any] = {}
        self.kinds: dict[int, str] = {}
        self.streams: dict[int, list[Work]] = {}
        self.capturing: set[int] = set()
        self.graphs: dict[int, list[Work]] = {}
        self.refuse_graphs = False
        self._next = 1000
        self._lock = Lock()

    def held(self) -> int:
        """Allocations, streams and graphs that were not given back."""
        return len(self.memory) + len(self.streams) + len(self.graphs)

    def enqueue(self, stream: int, work: Work) -> None:
        """What a library puts on a stream."""
        self.streams[stream].append(work)

    def spans(self, address: int, size: int, kind: str) -> bool:
        """Whether `size` bytes from there are within one allocation of that kind."""
        with self._lock:
            return any(
                start <= address and address + size <= start + len(self.memory[start]) and self.kinds[start] == kind
                for start in self.memory
            )

    def _new(self) -> int:
        with self._lock:
            self._next += 1
            return self._next

    def _allocate(self, kind: str, size: int) -> tuple[int, int]:
        self.calls.append("cudaMalloc" if kind == "device" else "cudaHostAlloc")
        held = (ctypes.c_uint8 * size).from_buffer(bytearray(b"\xff" * size))
        address = ctypes.addressof(held)
        with self._lock:
            self.memory[address], self.kinds[address] = held, kind
        return 0, address

    def _release(self, kind: str, address: int) -> tuple[int]:
        with self._lock:
            assert self.kinds.pop(address) == kind
            del self.memory[address]
        return (0,)

    def cudaGetErrorString(self, code: int) -> tuple[int, bytes]:
        return 0, f"simulated error {code}".encode()

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return 0, MEMORY, 2 * MEMORY

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return self._allocate("device", size)

    def cudaFree(self, address: int) -> tuple[int]:
        return self._release("device", address)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        return self._allocate("host", size)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        return self._release("host", address)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        stream = self._new()
        self.streams[stream] = []
        self.calls.append("cudaStreamCreateWithFlags")
        return 0, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        assert self.streams.pop(stream) == []
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream not in self.capturing
        work, self.streams[stream] = self.streams[stream], []
        for one in work:
            one()
        self.calls.append("cudaStreamSynchronize")
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: IntEnum, stream: int) -> tuple[int]:
        names = ("device", "host") if kind == 1 else ("host", "device")
        if not (self.spans(target, size, names[0]) and self.spans(source, size, names[1])):
            return (1,)
        self.enqueue(stream, lambda: ctypes.memmove(target, source, size) and None)
        self.calls.append("cudaMemcpyAsync")
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: IntEnum) -> tuple[int]:
        assert not self.streams[stream]
        self.capturing.add(stream)
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, Any]:
        self.capturing.remove(stream)
        work, self.streams[stream] = self.streams[stream], []
        if self.refuse_graphs:
            return 901, None
        graph = self._new()
        self.graphs[graph] = work
        return 0, graph

    def cudaGraphInstantiateWithFlags(self, graph: int, flags: int) -> tuple[int, int]:
        made = self._new()
        self.graphs[made] = self.graphs[graph]
        return 0, made

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        return (0,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        self.streams[stream] += self.graphs[graph]
        self.calls.append("cudaGraphLaunch")
        return (0,)
