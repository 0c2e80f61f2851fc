"""Batches of an epoch, the same whenever that epoch is run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.card import ModelInput
from training.augment import augmented
from training.recipe import Recipe

F32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batch:
    """`inputs` (N, H, W, C) as the network takes them, `targets` (N, K) that sum to 1, `factors` (N,) of the losses."""

    inputs: F32
    targets: F32
    factors: F32


def normalised(pictures: NDArray[np.uint8], feed: ModelInput) -> F32:
    """Pictures (N, H, W, C), blue-green-red or grey, as a network that takes NHWC wants them."""
    ordered = pictures[..., ::-1] if feed.colour == "RGB" else pictures
    return np.asarray((ordered - np.array(feed.mean, np.float32)) / np.array(feed.scale, np.float32), np.float32)


def rarity(truth: NDArray[np.int64], classes: int, exponent: float) -> F32:
    """The factor of each class's losses, of mean 1 over the pictures: its rarity to the power of `exponent`."""
    counts = np.bincount(truth, minlength=classes)
    factors = np.power(len(truth) / (classes * np.maximum(counts, 1)), exponent)
    return np.asarray(factors / factors[truth].mean(), np.float32)


def epoch_batches(
    pictures: NDArray[np.uint8], truth: NDArray[np.int64], recipe: Recipe, epoch: int, factors: F32, share: slice = slice(None)
) -> Iterator[Batch]:
    """All pictures in an order of the epoch's own, changed and mixed as the recipe says; the last batch is filled up from the first.

    `share`: the rows of each batch that are computed and given, those of one worker; `factors` by class.
    """
    random = np.random.default_rng((recipe.seed, epoch))
    steps = -(-len(truth) // recipe.batch)
    order = np.resize(random.permutation(len(truth)), steps * recipe.batch).reshape(steps, recipe.batch)
    smooth, classes = recipe.label_smoothing, len(recipe.labels)
    for chosen in order:
        changed = augmented(pictures[chosen], recipe.augmentation, (recipe.seed, epoch), chosen)
        targets = np.eye(classes, dtype=np.float32)[truth[chosen]] * (1 - smooth) + smooth / classes
        mixed = _mixed((normalised(changed, recipe.input), targets, factors[truth[chosen]]), recipe.mixup, random)
        yield Batch(*(rows[share] for rows in mixed))


def _mixed(parts: tuple[F32, ...], alpha: float, random: np.random.Generator) -> tuple[F32, ...]:
    """Each row with a share of another one of the batch: mixup (Zhang et al., ICLR 2018)."""
    partner, kept = random.permutation(len(parts[0])), np.float32(random.beta(alpha, alpha) if alpha else 1.0)
    return tuple(np.asarray(kept * rows + (1 - kept) * rows[partner], np.float32) for rows in parts) if alpha else parts
