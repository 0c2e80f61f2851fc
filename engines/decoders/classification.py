"""Class probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from engines.decoders.base import DecoderParams
from engines.results import F32


class ClassificationParams(DecoderParams):
    """`output`: (N, labels), or (N, 1) with `sigmoid` and two labels: the number is that of the second label.

    `activation`: what makes probabilities of it; `none` where the graph has done it. `temperature`: what logits are divided by before
    (Guo et al., "On calibration of modern neural networks", ICML 2017). `maps`: the output (N, labels, h, w) of class activation maps,
    whose means are the logits but for a bias (Zhou et al., "Learning deep features for discriminative localization", CVPR 2016).
    `features`: the output (N, C) of the pooled features that the logits are made of; the card's `familiar` is about them.
    """

    output: str
    activation: Literal["softmax", "sigmoid", "none"] = "none"
    temperature: float = Field(1.0, gt=0)
    maps: str | None = None
    features: str | None = None

    @model_validator(mode="after")
    def _of_logits(self) -> ClassificationParams:
        if self.activation == "none" and self.temperature != 1.0:
            raise ValueError("a temperature divides logits: it needs an activation")
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """One, and those of maps and features where there are such."""
        return tuple(name for name in (self.output, self.maps, self.features) if name is not None)


class ClassificationDecoder:
    """One output tensor, row by row the classes of a picture, and their maps where the model has them."""

    Params = ClassificationParams
    task = "classification"

    def __init__(self, params: Any) -> None:
        self.params = params

    def decode(self, outputs: Mapping[str, NDArray[Any]]) -> F32:
        """Probabilities, (N, labels) float32."""
        numbers = np.asarray(outputs[self.params.output], np.float32).reshape(len(outputs[self.params.output]), -1)
        numbers = numbers / np.float32(self.params.temperature)
        if self.params.activation == "softmax":
            powers = np.exp(numbers - numbers.max(1, keepdims=True))
            return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)
        if self.params.activation == "sigmoid":
            numbers = np.asarray(0.5 * (1.0 + np.tanh(0.5 * numbers)), np.float32)
        return np.concatenate([1.0 - numbers, numbers], 1) if numbers.shape[1] == 1 else numbers

    def maps(self, outputs: Mapping[str, NDArray[Any]]) -> F32 | None:
        """Class activation maps, (N, labels, h, w) float32, where the model has them."""
        return None if self.params.maps is None else np.asarray(outputs[self.params.maps], np.float32)

    def features(self, outputs: Mapping[str, NDArray[Any]]) -> F32 | None:
        """Pooled features, (N, C) float32, where the model gives them."""
        if self.params.features is None:
            return None
        found = np.asarray(outputs[self.params.features], np.float32)
        return found.reshape(len(found), -1)
