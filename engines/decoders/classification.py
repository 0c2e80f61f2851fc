"""Class probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engines.decoders.base import DecoderParams
from engines.results import F32


class ClassificationParams(DecoderParams):
    """`output`: (N, labels), or (N, 1) with `sigmoid` and two labels: the number is that of the second label.

    `activation`: what makes probabilities of it; `none` where the graph has done it.
    """

    output: str
    activation: Literal["softmax", "sigmoid", "none"] = "none"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one."""
        return (self.output,)


class ClassificationDecoder:
    """One output tensor, row by row the classes of a picture."""

    Params = ClassificationParams
    task = "classification"

    def __init__(self, params: Any) -> None:
        self.params = params

    def decode(self, outputs: Mapping[str, NDArray[Any]]) -> F32:
        """Probabilities, (N, labels) float32."""
        numbers = np.asarray(outputs[self.params.output], np.float32).reshape(len(outputs[self.params.output]), -1)
        if self.params.activation == "softmax":
            powers = np.exp(numbers - numbers.max(1, keepdims=True))
            return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)
        if self.params.activation == "sigmoid":
            numbers = np.asarray(0.5 * (1.0 + np.tanh(0.5 * numbers)), np.float32)
        return np.concatenate([1.0 - numbers, numbers], 1) if numbers.shape[1] == 1 else numbers
