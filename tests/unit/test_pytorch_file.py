"""Weights as PyTorch wrote them before 1.6, read without PyTorch."""

from __future__ import annotations

import os
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from training.errors import TrainingError
from training.pytorch import tensors

pytestmark = pytest.mark.unit


class Storage:
    """Numbers in a row that tensors share."""

    def __init__(self, key: str, values: list[float]) -> None:
        self.key, self.values = key, np.array(values, np.float32)


class Tensor:
    def __init__(self, rebuild: Callable[..., Any], storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self._how = rebuild, (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self) -> Any:
        return self._how


class Pickler(pickle.Pickler):
    def persistent_id(self, given: Any) -> Any:
        if not isinstance(given, Storage):
            return None
        return ("storage", sys.modules["torch"].FloatStorage, given.key, "cpu", len(given.values), None)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Writes tensors, each (offset, size, stride) of one storage, into a file of that format; `extra` is pickled among them."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")

    def rebuild(*_: Any) -> None: ...

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    vars(torch)["FloatStorage"] = type("FloatStorage", (), {"__module__": "torch"})
    vars(utils)["_rebuild_tensor_v2"] = rebuild

    def write(storage: Storage, extra: Any = None, **tensors: tuple[int, tuple[int, ...], tuple[int, ...]]) -> Path:
        out = BytesIO()
        listed: dict[str, Any] = OrderedDict((name, Tensor(rebuild, storage, *place)) for name, place in tensors.items())
        parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, listed | ({"extra": extra} if extra else {}), [storage.key])
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "torch", torch)
            patched.setitem(sys.modules, "torch._utils", utils)
            for part in parts:
                Pickler(out, protocol=2).dump(part)
        out.write(struct.pack("<q", len(storage.values)) + storage.values.tobytes())
        path = tmp_path / "weights.pth"
        path.write_bytes(out.getvalue())
        return path

    return write


def test_tensors_are_read_with_offset_and_stride(written: Callable[..., Path]) -> None:
    path = written(Storage("s", [9, 1, 2, 3, 4, 5, 6]), rows=(1, (2, 3), (3, 1)), turned=(1, (3, 2), (1, 3)))
    read = tensors(path)
    assert read["rows"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert read["turned"].tolist() == [[1, 4], [2, 5], [3, 6]]


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def test_what_is_no_tensor_is_never_run(written: Callable[..., Path]) -> None:
    with pytest.raises(TrainingError, match=r"system is no part of a tensor"):
        tensors(written(Storage("s", [1]), Evil(), one=(0, (1,), (1,))))


@pytest.mark.parametrize("damage", ["short", "outside", "text"])
def test_a_damaged_file_is_told(written: Callable[..., Path], damage: str) -> None:
    path = written(Storage("s", [1, 2, 3]), one=(0, (4 if damage == "outside" else 3,), (1,)))
    if damage != "outside":
        path.write_bytes(path.read_bytes()[:-5] if damage == "short" else b"no weights")
    with pytest.raises(TrainingError, match=r"weights\.pth holds no weights as PyTorch writes them"):
        tensors(path)
