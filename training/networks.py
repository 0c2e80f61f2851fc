"""The networks that can be trained. Each ends in maps of its classes, whose means are the logits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

from engines.errors import said
from training import lite
from training.errors import TrainingError
from training.recipe import NetworkName, Recipe

EPSILON = 1e-3
HEAD = "maps"
"""The layer, a convolution of 1x1, that is trained on a base."""


@dataclass(frozen=True, slots=True)
class Base:
    """A network of keras.applications: the function that makes it, and the module whose address its weights are fetched from."""

    function: str


BASES: dict[NetworkName, Base] = {
    "mobilenet-v2": Base("MobileNetV2"),
    "resnet-50": Base("ResNet50"),
    "resnet-152": Base("ResNet152"),
    "xception": Base("Xception"),
    "vgg-16": Base("VGG16"),
    "efficientnet-b0": Base("EfficientNetB0"),
}


def build(recipe: Recipe, weights: str | None = None, learning: bool = False, synchronised: bool = False) -> Any:
    """The recipe's network as a Keras model, float32 (N, H, W, C) to `logits` (N, K), `maps` (N, h, w, K) and pooled `features` (N, F).

    The input is normalised as the recipe's card says. A class's logit is the mean of its map (Zhou et al., "Learning deep features for
    discriminative localization", CVPR 2016). `weights`: of a base, "imagenet" (fetched) or a file that Keras saved; None: random.
    `learning`: in the recipe's precision, else float32. `synchronised`: batch normalisation over the batches of all workers.
    """
    kind = recipe.precision if learning else "float32"
    width, height = recipe.input.sizes[0]
    picture = keras.Input((height, width, recipe.input.channels), name="picture")
    if recipe.network == "compact":
        features = _compact(_standardised(picture) if recipe.standardise else picture, recipe.widths, kind, synchronised)
    else:
        base = _base(recipe, (height, width, recipe.input.channels), weights)
        base.trainable = False
        features = base(picture, training=False)
    pooled = keras.layers.GlobalAveragePooling2D(name="features", dtype="float32")(features)
    features = keras.layers.SpatialDropout2D(recipe.dropout, dtype="float32")(features)
    maps = keras.layers.Conv2D(len(recipe.labels), 1, name=HEAD, dtype="float32")(features)
    logits = keras.layers.GlobalAveragePooling2D(name="logits", dtype="float32")(maps)
    return keras.Model(picture, {"logits": logits, HEAD: maps, "features": pooled})


def _standardised(picture: Any) -> Any:
    """Mean 0 and deviation 1 of each picture: exposure and window no longer matter."""
    centred = picture - keras.ops.mean(picture, axis=(1, 2, 3), keepdims=True)
    variance = keras.ops.mean(keras.ops.square(centred), axis=(1, 2, 3), keepdims=True)
    return centred / keras.ops.sqrt(variance + EPSILON)


def _compact(picture: Any, widths: tuple[int, ...], precision: str, synchronised: bool) -> Any:
    """A small residual network of 3x3 convolutions: a stem, then for each width one that changes shape and one with a bypass.

    All stages but the last halve the picture, so that the maps stay fine.
    """

    policy = keras.DTypePolicy("float32" if precision == "float32" else f"mixed_{precision}")

    def convolved(values: Any, channels: int, stride: int) -> Any:
        values = keras.layers.Conv2D(channels, 3, stride, "same", use_bias=False, kernel_initializer="he_normal", dtype=policy)(values)
        return keras.layers.BatchNormalization(momentum=0.9, epsilon=EPSILON, synchronized=synchronised, dtype=policy)(values)

    values = keras.layers.ReLU(dtype=policy)(convolved(picture, widths[0], 2))
    for stage, channels in enumerate(widths[1:], 2):
        values = keras.layers.ReLU(dtype=policy)(convolved(values, channels, 1 if stage == len(widths) else 2))
        values = keras.layers.ReLU(dtype=policy)(keras.layers.Add(dtype=policy)([values, convolved(values, channels, 1)]))
    return values


def _base(recipe: Recipe, shape: tuple[int, int, int], weights: str | None) -> Any:
    """Raises TrainingError where its weights cannot be had."""
    name = recipe.network
    if name == "efficientnet-lite0":
        return lite.base(shape, recipe.taps, Path(weights) if weights else None)
    function = getattr(keras.applications, BASES[name].function)
    if weights not in (None, "imagenet") and not Path(str(weights)).is_file():
        raise TrainingError(f"there is no file {weights} with the weights of {name}; give --weights imagenet to fetch them, or none")
    try:
        return function(weights=weights, include_top=False, input_shape=shape)
    except Exception as error:  # Keras, h5py and urllib each have kinds of their own
        if weights == "imagenet":
            raise TrainingError(
                f"the ImageNet weights of {name} cannot be fetched: {said(error)}. Without access to their public home, fetch the file"
                " named there (…_notop.h5) elsewhere and give it as --weights FILE"
            ) from error
        raise TrainingError(f"{weights} does not hold the weights of {name} without its head: {said(error)}") from error


def unfreeze(model: Any, layers: int) -> None:
    """Let the last `layers` layers of the frozen base learn; its normalisations stay as they are."""
    (base,) = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    base.trainable = True
    for place, layer in enumerate(base.layers):
        layer.trainable = place >= len(base.layers) - layers and not isinstance(layer, keras.layers.BatchNormalization)
