"""Reads the layers of a dlib network file: its own parser of dlib's serialisation (dlib/serialize.h, dlib/dnn/layers.h)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.errors import ModelFileError

F32 = NDArray[np.float32]

_TAGS = ("con_4", "affine_", "max_pool_2", "avg_pool_2", "fc_2")
_TAG = re.compile(b"|".join(b"\x01" + bytes([len(tag)]) + tag.encode() for tag in _TAGS))


@dataclass(frozen=True, slots=True)
class Convolution:
    """weights (filters, channels, rows, columns), bias (filters,), stride and padding as (y, x)."""

    weights: F32
    bias: F32
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Affine:
    """y = gamma · x + beta per channel."""

    gamma: F32
    beta: F32


@dataclass(frozen=True, slots=True)
class Pool:
    """kind is max or average; window (0, 0) stands for the whole picture."""

    kind: str
    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


@dataclass(frozen=True, slots=True)
class FullyConnected:
    """y = x · weights; weights (inputs, outputs)."""

    weights: F32


Layer = Convolution | Affine | Pool | FullyConnected


class _Reader:
    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name, self.at = data, name, 0

    def integer(self) -> int:
        """One control byte (top bit: sign; low four bits: count), then that many bytes, little end first."""
        control = self.take(1)[0]
        count = control & 0x0F
        if not 1 <= count <= 8 or control & 0x70:
            raise ModelFileError(f"{self.name}: byte {self.at - 1} is no dlib integer; the file is damaged or of another format")
        value = int.from_bytes(self.take(count), "little")
        return -value if control & 0x80 else value

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise ModelFileError(f"{self.name}: ends in the middle of a layer (truncated?); delete it and fetch it again")
        self.at += count
        return piece

    def tensor(self) -> F32:
        version, *shape = (self.integer() for _ in range(5))
        if version != 2 or min(shape) < 0:
            raise ModelFileError(f"{self.name}: tensor of version {version}, shape {shape}; only version 2 is known")
        values = np.frombuffer(self.take(4 * int(np.prod(shape))), "<f4")
        if not np.isfinite(values).all():
            raise ModelFileError(f"{self.name}: weights that are not finite; the file is damaged")
        return values.astype(np.float32)

    def pair(self) -> tuple[int, int]:
        return self.integer(), self.integer()


def read_layers(path: Path) -> list[Layer]:
    """The layers of a dlib network file in forward order. Raises ModelFileError if the file is not one, or is cut."""
    reader = _Reader(path.read_bytes(), path.name)
    layers: list[Layer] = []
    while found := _TAG.search(reader.data, reader.at):
        reader.at = found.end()
        layers.append(_layer(reader, found.group()[2:].decode()))
    if not layers:
        raise ModelFileError(f"{path.name}: no layer of a dlib network in it")
    return layers


def _layer(reader: _Reader, tag: str) -> Layer:
    if tag == "con_4":
        return _convolution(reader)
    if tag == "affine_":
        gamma, beta = np.split(reader.tensor(), 2)
        return Affine(gamma, beta)
    if tag == "fc_2":
        outputs, inputs = reader.pair()
        values = reader.tensor()
        if values.size != inputs * outputs:
            raise ModelFileError(f"{reader.name}: a fully connected layer of {values.size} weights, not {inputs}x{outputs} without bias")
        return FullyConnected(values.reshape(inputs, outputs))
    window, stride, padding = reader.pair(), reader.pair(), reader.pair()
    return Pool("max" if tag == "max_pool_2" else "average", window, stride, padding)


def _convolution(reader: _Reader) -> Convolution:
    values = reader.tensor()
    filters, rows, columns = reader.integer(), reader.integer(), reader.integer()
    stride, padding = reader.pair(), reader.pair()
    if min(filters, rows, columns) < 1 or (values.size - filters) % (filters * rows * columns):
        raise ModelFileError(f"{reader.name}: {values.size} parameters do not make {filters} filters of {rows}x{columns}")
    weights = values[:-filters].reshape(filters, -1, rows, columns)
    return Convolution(weights, values[-filters:], stride, padding)
