"""Writes small networks in dlib's serialisation, and computes them with plain numpy: what the converter is tested against."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def integer(value: int) -> bytes:
    body = abs(value).to_bytes(max(1, (abs(value).bit_length() + 7) // 8), "little")
    return bytes([len(body) | (0x80 if value < 0 else 0)]) + body


def tag(name: str) -> bytes:
    return integer(len(name)) + name.encode()


def tensor(values: F32) -> bytes:
    return integer(2) + integer(values.size) + 3 * integer(1) + values.astype("<f4").tobytes()


class SmallNetwork:
    """Stem of 4 filters, a block of 4, a block of 6 that halves the picture, 5 outputs; random weights."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.parts = [integer(1), tag("loss_metric_2")]
        self.convolutions: list[tuple[F32, F32, int, int]] = []
        self._convolution(4, 3, 7, 2, 0)
        self._pool("max_pool_2", 3, 2)
        self._convolution(4, 4, 3, 1, 1)
        self._convolution(4, 4, 3, 1, 1)
        self._convolution(6, 4, 3, 2, 0)
        self._convolution(6, 6, 3, 1, 1)
        self._pool("avg_pool_2", 2, 2)
        self._pool("avg_pool_2", 0, 1)
        self.head = self.rng.normal(0, 0.5, (6, 5)).astype(np.float32)
        self.parts += [tag("fc_2"), integer(5), integer(6), tensor(self.head.ravel()), integer(-1)]

    def _convolution(self, filters: int, channels: int, side: int, stride: int, padding: int) -> None:
        weights = self.rng.normal(0, 0.3, (filters, channels, side, side)).astype(np.float32)
        bias, gamma, beta = self.rng.normal(0, 1, (3, filters)).astype(np.float32)
        self.parts += [tag("con_4"), tensor(np.concatenate([weights.ravel(), bias]))]
        self.parts += [integer(value) for value in (filters, side, side, stride, stride, padding, padding)]
        self.parts += [tag("affine_"), tensor(np.concatenate([gamma, beta]))]
        self.convolutions.append((weights * gamma[:, None, None, None], bias * gamma + beta, stride, padding))

    def _pool(self, kind: str, window: int, stride: int) -> None:
        self.parts += [tag(kind), *(integer(value) for value in (window, window, stride, stride, 0, 0))]

    def write(self, path: Path) -> None:
        path.write_bytes(b"".join(self.parts))

    def compute(self, image: F32) -> F32:
        """The network's five outputs for a (3, H, W) picture."""
        stem, first, second, third, fourth = self.convolutions
        x = windows(relu(convolve(image, stem)), 3, 2).max((-1, -2))
        x = relu(convolve(relu(convolve(x, first)), second) + x)
        y, shortcut = convolve(relu(convolve(x, third)), fourth), windows(x, 2, 2).mean((-1, -2))
        shape = np.maximum(y.shape, shortcut.shape)
        x = relu(grown(y, shape) + grown(shortcut, shape))
        return np.asarray(x.mean((1, 2)) @ self.head, np.float32)


def relu(x: F32) -> F32:
    return np.maximum(x, 0)


def grown(x: F32, shape: NDArray[np.int64]) -> F32:
    return np.pad(x, [(0, int(want) - have) for want, have in zip(shape, x.shape, strict=True)])


def windows(x: F32, side: int, stride: int) -> F32:
    return np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))[:, ::stride, ::stride]


def convolve(x: F32, layer: tuple[F32, F32, int, int]) -> F32:
    weights, bias, stride, padding = layer
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    return np.einsum("chwij,fcij->fhw", windows(padded, weights.shape[2], stride), weights) + bias[:, None, None]
