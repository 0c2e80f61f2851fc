"""Face templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.decoders.base import DecoderParams
from engines.results import F32


class EmbeddingParams(DecoderParams):
    """`output`: (N, D). `normalise`: scale every template to length 1."""

    output: str
    normalise: bool

    @property
    def outputs(self) -> tuple[str, ...]:
        """The one."""
        return (self.output,)


class EmbeddingDecoder:
    """One output tensor, row by row a template."""

    Params = EmbeddingParams
    task = "face-embedding"

    def __init__(self, params: Any) -> None:
        self.params = params

    def decode(self, outputs: Mapping[str, NDArray[Any]]) -> F32:
        """(N, D) float32."""
        vectors = np.asarray(outputs[self.params.output], np.float32)
        if self.params.normalise:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors
