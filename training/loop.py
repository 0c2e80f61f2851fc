"""The training loop: our own, so that it resumes, tells its progress, and runs under TensorFlow's distribution strategies."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training import networks, state
from training.batches import epoch_batches, normalised, rarity
from training.errors import TrainingError
from training.memory import fitting_batch
from training.recipe import Recipe
from training.state import Epoch, State

log = logging.getLogger(__name__)

JUDGED_AT_ONCE = 64
LEAST_BATCH = 2

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
Tell = Callable[[Epoch, float], None]
"""Called after every epoch, with the seconds that are left at this pace."""


@dataclass(frozen=True, slots=True)
class Workers:
    """This process among those that share a training. The chief, number 0, keeps the state."""

    count: int = 1
    number: int = 0
    strategy: Any = None

    @property
    def scope(self) -> Any:
        """In which the network's variables are made."""
        return (self.strategy or tf.distribute.get_strategy()).scope()


@dataclass(frozen=True, slots=True)
class Start:
    """Where a fine-tuning begins: weights of the network, and how many layers at the end of its base learn."""

    weights: state.Arrays
    layers: int


class Trainer:
    """Trains one network on `train`, and keeps in `folder` after every epoch what it takes to go on.

    `key` stands for recipe and pictures, `judge` asks networks of that recipe. `weights` are those of a base.
    """

    def __init__(
        self, recipe: Recipe, train: Labelled, validation: Labelled, folder: Path, key: str, judge: Judge,
        weights: str | None = None, workers: Workers | None = None, start: Start | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self._train, self._validation = recipe, train, validation
        self._folder, self._key, self._weights = folder, key, weights
        self._workers = workers or Workers()
        self._start = start
        self._judge = judge

    def run(self, tell: Tell) -> State:
        """Train to the end, or until the validation loss falls no more; then fine-tune where the recipe says so.

        What ran before is not run again. Where memory runs out, it goes on from the last epoch with half the batch. Raises TrainingError.
        """
        first = self._learned(tell)
        if self.recipe.fine_tuning is None:
            return first
        tuning = self.recipe.fine_tuning
        recipe = self.recipe.model_copy(update={"epochs": tuning.epochs, "rate": tuning.rate, "fine_tuning": None})
        start, folder = Start(first.best, tuning.layers), self._folder / "fine-tuned"
        trainer = Trainer(recipe, self._train, self._validation, folder, self._key, self._judge, self._weights, self._workers, start)
        second = trainer.run(tell)
        return min((second, first), key=lambda one: one.best_epoch.validation_loss)

    def _learned(self, tell: Tell) -> State:
        kept = state.load(self._folder, self._key)
        batch = kept.batch if kept else fitting_batch(self._judge.model, self.recipe.batch, self._workers.count)
        while True:
            try:
                return self._run(kept, batch, tell)
            except tf.errors.ResourceExhaustedError as error:
                if batch // 2 < max(LEAST_BATCH, self._workers.count):
                    raise TrainingError(f"memory runs out even with {batch} pictures at once; choose a smaller input or network") from error
                batch //= 2
                log.warning("memory ran out; the training goes on with %d pictures at once", batch)
                kept = state.load(self._folder, self._key)

    def _run(self, kept: State | None, batch: int, tell: Tell) -> State:
        recipe = self.recipe.model_copy(update={"batch": batch})
        pass_ = Pass(recipe, self._train, self._weights, self._workers, self._start)
        now = pass_.begin(kept)
        while not now.finished:
            began = time.monotonic()
            loss, now.average = pass_.epoch(len(now.history), now.average)
            validation_loss, accuracy = self._judged(now.average)
            if not math.isfinite(loss + validation_loss):
                raise TrainingError("the loss is no longer a number; choose a smaller rate")
            done = Epoch(len(now.history) + 1, loss, validation_loss, accuracy, pass_.rate, time.monotonic() - began)
            if not now.history or validation_loss < now.best_epoch.validation_loss:
                now.best = now.average
            now.history.append(done)
            idle = done.epoch - now.best_epoch.epoch
            now.finished = done.epoch >= recipe.epochs or idle >= recipe.patience
            now.variables = pass_.variables()
            if self._workers.number == 0:
                state.save(now, self._folder, self._key)
            tell(done, state.seconds_left(now.history, recipe.epochs))
        return now

    def _judged(self, weights: state.Arrays) -> tuple[float, float]:
        """Validation loss and accuracy; the same for all workers, whose processors may round differently."""
        found = scores(self._judge.logits(weights, self._validation[0]), self._validation[1])
        if self._workers.strategy is None:
            return found
        loss, accuracy = (mean_of_all(self._workers.strategy, value) for value in found)
        return loss, accuracy


class Pass:
    """Network, optimiser and step, for one size of batch."""

    def __init__(self, recipe: Recipe, train: Labelled, weights: str | None, workers: Workers, start: Start | None = None) -> None:
        self._recipe, self._train, self._workers = recipe, train, workers
        self._factors = rarity(train[1], len(recipe.labels), recipe.class_weights)
        self._steps = steps = -(-len(train[1]) // recipe.batch)
        keras.utils.set_random_seed(recipe.seed)
        with workers.scope:
            self.model = networks.build(recipe, weights, learning=True, synchronised=workers.count > 1)
            if start is not None:
                self.model.set_weights(start.weights)
                networks.unfreeze(self.model, start.layers)
            rate = keras.optimizers.schedules.CosineDecay(
                recipe.rate / 100, max(1, round(steps * (recipe.epochs - recipe.warmup))),
                warmup_target=recipe.rate, warmup_steps=max(1, round(steps * recipe.warmup)),
            )  # fmt: skip
            self._optimiser = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay)
            self._optimiser.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            self._optimiser.build(self.model.trainable_variables)
        self._step = tf.function(self._on_each_worker)
        self._share = shares(recipe.batch, workers.count)[workers.number]

    def begin(self, kept: State | None) -> State:
        """Where to go on: from what is kept, or from a new network."""
        if self._workers.strategy is not None:
            begun = float(len(kept.history) if kept else 0)
            if mean_of_all(self._workers.strategy, begun) != begun:
                raise TrainingError("the workers do not see the same state of the training; give all of them one shared folder as --out")
        if kept is None:
            weights = [np.asarray(value) for value in self.model.get_weights()]
            return State(self.variables(), weights, weights, batch=self._recipe.batch)
        for variable, value in zip(self._all(), kept.variables, strict=True):
            variable.assign(value)
        kept.batch = self._recipe.batch
        return kept

    def epoch(self, epoch: int, average: state.Arrays) -> tuple[float, state.Arrays]:
        """One pass over the pictures: the mean loss, and the weights' average."""
        losses: list[float] = []
        for batch in epoch_batches(*self._train, self._recipe, epoch, self._factors, self._share):
            loss = self._step(*(tf.constant(part) for part in (batch.inputs, batch.targets, batch.factors)))
            average = state.averaged(average, self.model.get_weights(), self._recipe.averaging, epoch * self._steps + len(losses))
            losses.append(float(loss))
        return float(np.mean(losses)), average

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(keras.ops.convert_to_numpy(self._optimiser.learning_rate))

    def variables(self) -> state.Arrays:
        """Values of all that the next step depends on."""
        return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in self._all()]

    def _all(self) -> list[Any]:
        return [*self.model.variables, *self._optimiser.variables]

    def _on_each_worker(self, inputs: Any, targets: Any, factors: Any) -> Any:
        if self._workers.strategy is None:
            return self._learn(inputs, targets, factors)
        given = self._workers.strategy.run(self._learn, (inputs, targets, factors))
        return self._workers.strategy.reduce(tf.distribute.ReduceOp.SUM, given, axis=None)

    def _learn(self, inputs: Any, targets: Any, factors: Any) -> Any:
        """One step. The loss is this worker's part of the batch's mean; gradients are summed over the workers."""
        with tf.GradientTape() as tape:
            logits = self.model(inputs, training=True)["logits"]
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits) * factors
            loss = tf.reduce_sum(losses) / self._recipe.batch
        self._optimiser.apply(tape.gradient(loss, self.model.trainable_variables), self.model.trainable_variables)
        return loss


def mean_of_all(strategy: Any, value: float) -> float:
    """Of a number that each worker has."""

    def reduced() -> Any:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, tf.constant(value, tf.float64))

    return float(tf.function(lambda: strategy.run(reduced))())


def shares(batch: int, workers: int) -> list[slice]:
    """The rows of a batch that each worker computes."""
    edges = [batch * number // workers for number in range(workers + 1)]
    return [slice(first, last) for first, last in pairwise(edges)]


class Judge:
    """A network of the recipe that answers, with weights that are trained elsewhere."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self.model = networks.build(recipe)
        self._infer = tf.function(lambda inputs: self.model(inputs, training=False)["logits"], reduce_retracing=True)

    def logits(self, weights: state.Arrays, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Of pictures (N, H, W, C): (N, K)."""
        self.model.set_weights(weights)
        parts = [pictures[start : start + JUDGED_AT_ONCE] for start in range(0, len(pictures), JUDGED_AT_ONCE)]
        return np.concatenate([self._infer(tf.constant(normalised(part, self._recipe.input))).numpy() for part in parts]).astype(np.float64)


def scores(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> tuple[float, float]:
    """Mean cross-entropy in nats, and the share of right answers."""
    shifted = logits - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-logs[np.arange(len(truth)), truth].mean()), float((logits.argmax(1) == truth).mean())
