"""Heads in closed form, of what a frozen base says of the pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from engines.files import replacing
from training import networks
from training.augment import augmented
from training.batches import normalised
from training.data import Examples
from training.discriminant import F32, fitted
from training.errors import TrainingError
from training.loop import Judge, Labelled, scores
from training.recipe import Discriminant, Recipe
from training.state import Epoch, State

AT_ONCE = 16
Looked = Callable[[int, int, float], None]
"""Called with how many times all pictures were looked at, out of how many, and the seconds that are left at this pace."""


class Heads:
    """Discriminants of parts of `examples`, on one frozen base.

    Every picture is looked at a few times; what the base says is kept in `folder`, so that a run that was cut off goes on.
    Raises TrainingError where another training is kept there.
    """

    def __init__(
        self, recipe: Recipe, how: Discriminant, examples: Examples, weights: str | None, folder: Path, key: str, looked: Looked
    ) -> None:
        self._recipe, self._how, self._truth = recipe, how, examples.truth
        self.model = networks.build(recipe, weights)
        self._infer = tf.function(lambda inputs: self.model(inputs, training=False)["features"], reduce_retracing=True)
        self._views: list[F32] = []
        for view in range(how.views):
            began = time.monotonic()
            self._views.append(_kept(folder / f"view-{view + 1}.npz", key, partial(self._seen, examples, view)))
            looked(view + 1, how.views, (how.views - view - 1) * (time.monotonic() - began))

    def state(self, learned: NDArray[np.intp], validation: Labelled, judge: Judge) -> State:
        """The network whose head learned from the pictures at `learned`."""
        began = time.monotonic()
        rows, truth = np.concatenate([view[learned] for view in self._views]), np.tile(self._truth[learned], len(self._views))
        head = fitted(rows, truth, len(self._recipe.labels), self._how.shrinkage, self._recipe.class_weights)
        self.model.get_layer(networks.HEAD).set_weights([head[0][None, None], head[1]])
        weights = [np.asarray(value) for value in self.model.get_weights()]
        judged = scores(judge.logits(weights, validation[0]), validation[1])
        done = Epoch(1, scores(rows @ head[0] + head[1], truth)[0], *judged, 0.0, time.monotonic() - began)
        return State([], weights, weights, [done], finished=True)

    def _seen(self, examples: Examples, view: int) -> F32:
        pictures, how = examples.pictures, self._recipe.augmentation
        if view:
            pictures = augmented(pictures, how, (self._recipe.seed, view), np.arange(len(examples)))
        parts = [normalised(pictures[start : start + AT_ONCE], self._recipe.input) for start in range(0, len(pictures), AT_ONCE)]
        return np.concatenate([self._infer(part).numpy() for part in parts])


def _kept(path: Path, key: str, seen: Callable[[], F32]) -> F32:
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as kept:
                about, features = bytes(kept["about"]).decode(), np.asarray(kept["features"], np.float32)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise TrainingError(f"{path} is damaged: {error}; delete it, and the training starts anew") from error
        if about != key:
            raise TrainingError(f"{path.parent} holds a training of another recipe or other pictures; give another folder, or delete it")
        return features
    features = seen()
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=np.frombuffer(key.encode(), np.uint8), features=features)
    return features
