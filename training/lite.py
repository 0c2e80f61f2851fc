"""EfficientNet-Lite0 as a frozen base: the moments of its early stages.

M. Tan and Q. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the Lite variant has neither
squeeze-and-excitation nor swish. Weights of ImageNet (Apache-2.0) come as a file that PyTorch wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from training import pytorch
from training.errors import TrainingError

ASSET = "efficientnet-lite0"
STEM = 32
STAGES = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))
"""Of each stage: expansion, kernel, stride of the first block, channels, blocks."""
EPSILON = 1e-3


def base(shape: tuple[int, int, int], taps: tuple[int, ...], weights: Path | None) -> Any:
    """Pictures (N, H, W, 1 or 3) to features (N, h, w, C): of each stage in `taps`, from 0, its channels and their squares.

    Finer stages are averaged to the grid of the coarsest, so that the mean over the grid is a channel's mean and its second moment.
    Raises TrainingError where the sides do not fit or the weights are others.
    """
    if any(side % 32 for side in shape[:2]):
        raise TrainingError(f"{ASSET}: the sides of the input must be multiples of 32, not {shape[1]}x{shape[0]}")
    picture = keras.Input(shape)
    values = _normalised(keras.layers.Conv2D(STEM, 3, 2, "same", use_bias=False, name="stem")(picture), "stem_bn")
    tapped = []
    for stage, (expansion, kernel, stride, channels, blocks) in enumerate(STAGES[: max(taps) + 1]):
        for block in range(blocks):
            name = f"block{sum(one[-1] for one in STAGES[:stage]) + block}"
            values = _block(values, name, expansion, kernel, stride if block == 0 else 1, channels)
        if stage in taps:
            tapped.append(values)
    coarsest = tapped[-1].shape[1]
    moments = [
        keras.layers.AveragePooling2D(one.shape[1] // coarsest)(kind) if one.shape[1] > coarsest else kind
        for one in tapped
        for kind in (one, keras.ops.square(one))
    ]
    model = keras.Model(picture, keras.layers.Concatenate()(moments), name=ASSET)
    if weights is not None:
        _fill(model, pytorch.tensors(weights))
    return model


def _normalised(values: Any, name: str, act: bool = True) -> Any:
    values = keras.layers.BatchNormalization(epsilon=EPSILON, name=name)(values)
    return keras.layers.ReLU(6.0)(values) if act else values


def _block(values: Any, name: str, expansion: int, kernel: int, stride: int, channels: int) -> Any:
    """An inverted bottleneck (M. Sandler et al., "MobileNetV2", CVPR 2018)."""
    whole = values
    if expansion != 1:
        wide = keras.layers.Conv2D(values.shape[-1] * expansion, 1, use_bias=False, name=f"{name}_expand")(values)
        values = _normalised(wide, f"{name}_expand_bn")
    values = keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depth")(values)
    values = _normalised(values, f"{name}_depth_bn")
    values = keras.layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project")(values)
    values = _normalised(values, f"{name}_project_bn", act=False)
    return keras.layers.Add()([whole, values]) if stride == 1 and whole.shape[-1] == channels else values


TITLES = {"expand": "_expand_conv", "expand_bn": "_bn0", "depth": "_depthwise_conv", "depth_bn": "_bn1", "project": "_project_conv"}


def _title(layer: str) -> str:
    """Of a layer in the file."""
    if layer.startswith("stem"):
        return "_bn0" if layer.endswith("bn") else "_conv_stem"
    block, part = layer.split("_", 1)
    return f"_blocks.{block.removeprefix('block')}.{TITLES.get(part, '_bn2')}"


def _fill(model: Any, tensors: pytorch.Tensors) -> None:
    try:
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                names = ("weight", "bias", "running_mean", "running_var")
                layer.set_weights([tensors[f"{_title(layer.name)}.{name}"] for name in names])
            elif isinstance(layer, (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)):
                kernel = tensors[f"{_title(layer.name)}.weight"]
                if layer.name == "stem" and layer.input.shape[-1] == 1:
                    kernel = kernel.sum(1, keepdims=True)
                deep = isinstance(layer, keras.layers.DepthwiseConv2D)
                layer.set_weights([kernel.transpose((2, 3, 0, 1) if deep else (2, 3, 1, 0))])
    except (KeyError, ValueError) as error:
        raise TrainingError(f"the file does not hold the weights of {ASSET}: {error}") from error
