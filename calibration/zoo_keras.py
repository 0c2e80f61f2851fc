"""Makes one of the bench's models with TensorFlow, in a process of its own: `python -m calibration.zoo_keras NAME FOLDER`."""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

from calibration.zoo import SPECS, Spec

SEED = 20261
PICTURES = 16
SPREAD = 2.0
"""Of a class's logit over pictures: answers then differ from picture to picture, as a trained model's do."""
BRANCH = 0.2
"""What a residual branch adds, as a share of its own variation."""
BRANCH_ENDS = ("_3_bn", "_project_bn")
"""Names of the normalisations at the ends of the branches in keras.applications' ResNets, MobileNetV2 and EfficientNets."""


def main(name: str, folder: str) -> None:
    """Write the model as a SavedModel whose signature `serving_default` takes any batch."""
    spec = SPECS[name]
    keras.utils.set_random_seed(SEED)
    model = _grey_cnn(spec) if spec.keras == "" else _application(spec)
    pictures = _pictures(spec)
    if any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers):
        _quieten_residuals(model)
        _settle_statistics(model, pictures)
        _spread(model, pictures)
    else:
        _settle_layers(model, pictures)
    model.export(folder, format="tf_saved_model", verbose=False)


def _grey_cnn(spec: Spec) -> Any:
    layers: list[Any] = [keras.layers.Input((spec.side, spec.side, 1))]
    for filters in (32, 64, 128):
        layers += [keras.layers.Conv2D(filters, 3, padding="same", activation="relu"), keras.layers.MaxPooling2D(2)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(128, activation="relu"), keras.layers.Dense(1)]
    return keras.Sequential(layers)


def _application(spec: Spec) -> Any:
    make = getattr(keras.applications, spec.keras)
    if not spec.top:
        base = make(weights=None, include_top=False, pooling="avg", input_shape=(spec.side, spec.side, 3))
        return keras.Model(base.input, keras.layers.Dense(spec.classes)(base.output))
    return make(weights=None, input_shape=(spec.side, spec.side, 3), classes=spec.classes, classifier_activation=None)


def _pictures(spec: Spec) -> Any:
    """Noise that is smooth at several scales, as photographs are, normalised as the card says."""
    channels = 1 if spec.colour == "GREY" else 3
    random = np.random.default_rng(SEED)
    total = np.zeros((PICTURES, spec.side, spec.side, channels), np.float32)
    for cells in (2, 5, 13, 34, 89):
        noise = random.normal(0, 1, (PICTURES, cells, cells, channels)).astype(np.float32)
        total += tf.image.resize(noise, (spec.side, spec.side), "bilinear").numpy() / cells**0.5
    bytes_ = np.clip(127 + 55 * total / total.std(), 0, 255)
    return tf.constant((bytes_ - np.array(spec.mean, np.float32)) / np.array(spec.scale, np.float32), tf.float32)


def _quieten_residuals(model: Any) -> None:
    """Let each residual branch add little to what it bypasses, as it does after training (Goyal et al., "Accurate, large minibatch SGD",
    2017, start it at nothing). At full strength a random network is chaotic: rounding in the first layers is all that the last ones see.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.name.lower().endswith(BRANCH_ENDS):
            layer.gamma.assign(BRANCH * layer.gamma)


def _settle_statistics(model: Any, pictures: Any) -> None:
    """Give batch normalisations the statistics of the pictures: with those that they start with, activations grow beyond all bounds."""
    normalisations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    kept = [layer.momentum for layer in normalisations]
    for layer in normalisations:
        layer.momentum = 0.0
    model(pictures, training=True)
    for layer, momentum in zip(normalisations, kept, strict=True):
        layer.momentum = momentum


def _spread(model: Any, pictures: Any) -> None:
    """Centre and scale the logits over the pictures."""
    logits = model(pictures, training=False).numpy()
    _rescale(model.layers[-1], logits.mean(0), logits.std(0) / SPREAD)


def _settle_layers(model: Any, pictures: Any) -> None:
    """Data-dependent initialisation, layer by layer (Krähenbühl et al., ICLR 2016): each channel has mean 0 and deviation 1."""
    values = pictures
    for layer in (one for one in model.layers if not isinstance(one, keras.layers.InputLayer)):
        if isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            activation, layer.activation = layer.activation, keras.activations.linear
            raw = layer(values).numpy()
            axes = tuple(range(raw.ndim - 1))
            spread = SPREAD if layer is model.layers[-1] else 1.0
            _rescale(layer, raw.mean(axes), np.maximum(raw.std(axes), 1e-6) / spread)
            layer.activation = activation
        values = layer(values)


def _rescale(layer: Any, mean: Any, deviation: Any) -> None:
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel / deviation, (bias - mean) / deviation])


if __name__ == "__main__":
    main(*sys.argv[1:])
