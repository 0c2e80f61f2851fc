"""Whether a picture is like those that a model has learned from, by the features that its answer is made of.

A picture's pooled features are compared with those of each class's training pictures: the distance from the nearest of the classes, whose
covariance is one and of low rank (K. Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial
attacks", NeurIPS 2018). `training.ood` fits it; the card names the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np

from engines.card import ModelCard, familiar_data
from engines.plane import F32, Plane


@dataclass(frozen=True, slots=True)
class Familiar:
    """A plane for each class, which differ in their means alone; `limit`: the distance from which on there is no answer."""

    planes: tuple[Plane, ...]
    limit: float

    def distances(self, features: F32) -> F32:
        """Of pooled features (N, C), from the nearest class; about 2 for pictures like those of the training."""
        return np.asarray(np.stack([plane.distances(features) for plane in self.planes]).min(0), np.float32)

    def objection(self, features: F32) -> str:
        """Why one picture's features (C,) are taken for none that the model knows; "" if they may be."""
        distance = float(self.distances(features[None])[0])
        if distance <= self.limit:
            return ""
        return f"it is unlike what the model has learned from (distance {distance:.1f}, at most {self.limit:.1f})"


def familiar(card: ModelCard) -> Familiar | None:
    """Of a card that has one. Raises ModelFileError where its file is missing, damaged or another."""
    if card.familiar is None:
        return None
    with np.load(BytesIO(familiar_data(card))) as kept:
        means, axes, spread = (kept[name].astype(np.float32) for name in ("means", "axes", "spread"))
        rest = float(kept["rest"])
    return Familiar(tuple(Plane(mean, axes, spread, rest, card.familiar.limit) for mean in means), card.familiar.limit)
