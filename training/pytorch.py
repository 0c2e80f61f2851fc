"""Weights as PyTorch writes them, read without PyTorch."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

Tensors = dict[str, NDArray[Any]]


class _Tensors(pickle.Unpickler):
    """Reads nothing but tensors; any other class in the file is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        if module == "torch" and name in ("FloatStorage", "LongStorage"):
            return np.float32 if name == "FloatStorage" else np.int64
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor")

    def persistent_load(self, about: Any) -> Any:
        _, kind, key, _, count, *_ = about
        return kind, key, count


def tensors(path: Path) -> Tensors:
    """The tensors by name of a state dictionary in PyTorch's format before 1.6: pickles, then each storage with its count before it.

    Raises TrainingError where the file is no such.
    """
    try:
        with path.open("rb") as file:
            _, _, _, listed, keys = (_Tensors(file).load() for _ in range(5))
            kinds = {storage[1]: storage[0] for storage, *_ in listed.values()}
            data = {}
            for key in keys:
                count = int.from_bytes(file.read(8), "little")
                data[key] = np.frombuffer(file.read(count * np.dtype(kinds[key]).itemsize), kinds[key])
        return {name: _strided(data[storage[1]][offset:], size, stride) for name, (storage, offset, size, stride) in listed.items()}
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path} holds no weights as PyTorch writes them: {error}") from error


def _strided(values: NDArray[Any], size: tuple[int, ...], stride: tuple[int, ...]) -> NDArray[Any]:
    """A copy of the tensor whose elements lie `stride` apart in `values`. Raises ValueError where they would lie outside."""
    if sum((count - 1) * step for count, step in zip(size, stride, strict=True)) >= len(values):
        raise ValueError("a tensor reaches beyond its storage")
    steps = tuple(step * values.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(values, size, steps, writeable=False).copy()
