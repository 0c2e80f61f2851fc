"""What models find, in numbers that every consumer speaks. Frozen, and checked for shape when made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True)
class Detections:
    """Objects found in one image, best score first.

    boxes: (N, 4) float32, x1, y1, x2, y2 in pixels of the image that was given in, which they may overhang;
    scores: (N,) float32 in 0..1; landmarks: (N, K, 2) float32, x, y pixels of the same image
    (faces: left eye, right eye, nose tip, left and right mouth corner, in the image's sense), K = 0 where the model has none.
    """

    boxes: F32
    scores: F32
    landmarks: F32

    def __post_init__(self) -> None:
        n = len(self.boxes)
        _require(self.boxes.shape == (n, 4), f"boxes must be (N, 4), not {self.boxes.shape}")
        _require(self.scores.shape == (n,), f"scores must be ({n},), not {self.scores.shape}")
        _require(
            self.landmarks.ndim == 3 and self.landmarks.shape[::2] == (n, 2), f"landmarks must be ({n}, K, 2), not {self.landmarks.shape}"
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: NDArray[np.generic] | slice) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.landmarks[index])

    @staticmethod
    def empty(landmarks: int = 5) -> Detections:
        """Nothing found."""
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, landmarks, 2), np.float32))


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Face templates. vectors: (N, D) float32 as the model gives them; model: `<card name>@<sha256[:12]>` of the model file.

    Vectors of different models are never comparable.
    """

    vectors: F32
    model: str

    def __post_init__(self) -> None:
        _require(self.vectors.ndim == 2, f"vectors must be (N, D), not {self.vectors.shape}")

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class Classification:
    """What a classifier said of N pictures. probabilities: (N, L) float32 in the order of `labels`.

    maps: (N, L, h, w) float32, where in the pictures each class was seen; features: (N, C) float32, what the answers are made of; each
    None where the model does not say.
    """

    probabilities: F32
    labels: tuple[str, ...]
    maps: F32 | None = None
    features: F32 | None = None

    def __post_init__(self) -> None:
        _require(
            self.probabilities.ndim == 2 and self.probabilities.shape[1] == len(self.labels),
            f"probabilities must be (N, {len(self.labels)}), not {self.probabilities.shape}",
        )
        _require(
            self.maps is None or (self.maps.ndim == 4 and self.maps.shape[:2] == self.probabilities.shape),
            f"maps must be {self.probabilities.shape} and two dimensions more, not {None if self.maps is None else self.maps.shape}",
        )

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def answers(self) -> tuple[str, ...]:
        """The likeliest label of each picture."""
        return tuple(self.labels[index] for index in self.probabilities.argmax(1))
