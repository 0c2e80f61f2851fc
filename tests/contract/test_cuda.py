"""The calls of CUDA's C libraries through ctypes, on libraries that stand for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines.backends import cuda
from engines.errors import MissingRuntimeError

ROOT = Path(__file__).parents[2]
STUB = ROOT / "tests" / "fakes" / "stub_cuda.c"

PROGRAM = f"""
import ctypes, sys
sys.path.insert(0, {str(ROOT)!r})
sys.modules["cuda"] = None
import numpy as np
from engines.backends.cuda import Cuda, Library, cuda, gpus
from engines.errors import EngineError

(gpu,) = gpus()
assert (gpu.name, gpu.capability, gpu.driver) == ("Stub GPU", (8, 7), 12060), gpu
found = cuda()
assert isinstance(found._runtime, Library)
assert found.free_memory() == 5 << 32
stream, device, host, back = found.stream(), found.allocate(64), found.pinned(64), found.pinned(64)
assert stream == 0x7F0000001000
host[:] = np.arange(64)
found.to_device(device, host.ctypes.data, 64, stream)
found.to_host(back.ctypes.data, device, 64, stream)
found.synchronise(stream)
assert (back == host).all()
graph = found.captured(stream, lambda: found.to_device(device, host.ctypes.data, 64, stream))
assert graph == 0x7F0000003000
found.launch(graph, stream)
found.destroy_graph(graph)
found.free(device), found.free_pinned(host), found.free_pinned(back), found.destroy_stream(stream)
try:
    found.synchronise(stream + 8)
except EngineError as error:
    print(error)
"""


def run(program: str, libraries: Path) -> str:
    env = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(libraries)}
    result = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=150, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("package", ["nvidia/cuda_runtime/lib", "nvidia/cu13/lib"])
def test_every_call_through_the_libraries(tmp_path: Path, package: str) -> None:
    """libcudart lies where the wheels of CUDA 12 and 13 put it."""
    folder = tmp_path / package
    folder.mkdir(parents=True)
    subprocess.run(["gcc", "-shared", "-fPIC", str(STUB), "-o", str(tmp_path / "libcuda.so.1")], check=True, timeout=150)
    (folder / "libcudart.so.12").symlink_to(tmp_path / "libcuda.so.1")
    assert "cudaStreamSynchronize failed with 1 (stub says no)" in run(PROGRAM, tmp_path)


def test_nothing_of_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda", None)
    monkeypatch.setattr(cuda, "_candidates", lambda: iter(["/nowhere/libcudart.so"]))
    with pytest.raises(MissingRuntimeError, match="pip install cuda-python"):
        cuda.cuda.__wrapped__()
