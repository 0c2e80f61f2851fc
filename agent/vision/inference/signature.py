"""What a served model takes and gives, and the checks that both protocols share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import AlmenaError
from engines.base import TensorSpec
from engines.card import ModelCard

U8 = NDArray[np.uint8]
Outputs = Mapping[str, NDArray[Any]]
PROBABILITIES = "probabilities"


class InferenceError(AlmenaError):
    """A request is answered with `status` and this message; `retry_after`: seconds after which another try may do."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Signature:
    """One served model. `outputs` are the engine's own, their first dimension is that of the pictures; `most`: pictures in a request."""

    name: str
    card: ModelCard
    outputs: tuple[TensorSpec, ...]
    most: int

    @property
    def version(self) -> str:
        """The card's."""
        return self.card.version

    @property
    def picture(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        width, height = self.card.input.sizes[0]
        return height, width, self.card.input.channels

    @property
    def offered(self) -> tuple[TensorSpec, ...]:
        """The engine's outputs, and of a classifier the probabilities."""
        if not self.card.labels:
            return self.outputs
        return (*self.outputs, TensorSpec(PROBABILITIES, "float32", (None, len(self.card.labels))))


def pixels(values: NDArray[Any], signature: Signature) -> U8:
    """`values` as (n, height, width, channels) uint8. Raises InferenceError (400) unless they are whole numbers 0 to 255 of that shape."""
    checked_shape(values.shape, signature)
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind not in "iuf":
        raise InferenceError(400, f"input 'image' must hold numbers, not {values.dtype}")
    found = values.astype(np.uint8) if np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255 else None
    if found is None or not np.array_equal(found, values):
        raise InferenceError(
            400, "input 'image' must hold whole numbers 0 to 255: send the picture's bytes as they are, normalisation is part of the model"
        )
    return found


def checked_shape(shape: tuple[int, ...], signature: Signature) -> None:
    """Raises InferenceError (400) unless it is (n, height, width, channels) with an n that is allowed."""
    height, width, channels = signature.picture
    if len(shape) != 4 or tuple(shape[1:]) != signature.picture:
        raise InferenceError(400, f"input 'image' must have the shape [n, {height}, {width}, {channels}], not {list(shape)}")
    if not 1 <= shape[0] <= signature.most:
        raise InferenceError(400, f"a request may have 1 to {signature.most} pictures, not {shape[0]}")
