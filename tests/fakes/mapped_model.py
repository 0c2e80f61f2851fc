"""Classifiers with class activation maps whose answers can be told beforehand, their cards, and terrain that the code draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines.files import sha256

GRID = 8
CHEST = ("covid", "normal", "pneumonia")
TERRAIN = ("damaged", "intact")


def save_model(
    path: Path, side: int, weights: Sequence[float], biases: Sequence[float], edges: bool = False, features: bool = False
) -> Path:
    """Maps are the brightness, 0..1, in a grid of 8x8 cells (with `edges` that of the Laplacian's size) times a class's weight; a logit is
    the mean of the class's map and its bias. Input `x` (n, 1, side, side), outputs `logits` (n, K) and `maps` (n, K, 8, 8), and with
    `features` the cells as `pooled` (n, 64)."""
    kinds = len(weights)
    laplacian = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]], np.float32).reshape(1, 1, 3, 3)
    constants = {
        "laplacian": laplacian, "head": np.array(weights, np.float32).reshape(kinds, 1, 1, 1), "bias": np.array(biases, np.float32),
    }  # fmt: skip
    seen = [
        helper.make_node("Conv", ["x", "laplacian"], ["drawn"], pads=[1, 1, 1, 1]),
        helper.make_node("Abs", ["drawn"], ["features"]),
    ]
    cell = side // GRID
    nodes = [
        *(seen if edges else [helper.make_node("Identity", ["x"], ["features"])]),
        helper.make_node("AveragePool", ["features"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]),
        helper.make_node("Conv", ["cells", "head"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Add", ["flat", "bias"], ["logits"]),
        *([helper.make_node("Flatten", ["cells"], ["pooled"])] if features else []),
    ]
    graph = helper.make_graph(
        nodes, "mapped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, side, side])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", kinds]),
            helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", kinds, GRID, GRID]),
            *([helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["n", GRID * GRID])] if features else []),
        ],
        [numpy_helper.from_array(values, name) for name, values in constants.items() if edges or name != "laplacian"],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_card(
    model: Path, labels: Sequence[str], side: int, threshold: float, familiar: dict[str, Any] | None = None, **params: Any
) -> Path:
    """Beside the model; the first label is the positive one. Grey pictures are divided by 255."""
    content = {
        "name": model.stem, "version": "1", "title": "a model of the tests", "task": "classification", "licence": "CC0-1.0",
        "training_data": "none", "source": {"kind": "local", "path": model.name}, "sha256": sha256(model), "format": "onnx",
        "input": {"layout": "NCHW", "colour": "GREY", "sizes": [[side, side]], "scale": [255.0], "resize": "stretch"},
        "decoder": {"name": "classification", "params": {"output": "logits", "activation": "softmax", **params}},
        "familiar": familiar, "labels": list(labels), "positive": labels[0], "thresholds": {"score": threshold, "chosen_on": "nothing"},
        "allowance": {"probability": 0.05, "agreement": 0.5},
    }  # fmt: skip
    path = model.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(content))
    return path


def terrain_card(folder: Path) -> Path:
    """Damaged or intact terrain from a grey picture of 128x128 pixels: rubble has many edges."""
    model = save_model(folder / "terrain.onnx", 128, (60.0, -60.0), (-6.0, 6.0), edges=True)
    return write_card(model, TERRAIN, 128, 0.5)


def terrain(damaged: bool, seed: int = 0) -> NDArray[np.uint8]:
    """An aerial picture, (128, 128, 3): soft fields, and with `damaged` a heap of rubble over most of it."""
    random = np.random.default_rng(seed)
    fields = cv2.resize(random.integers(70, 180, (4, 4), np.uint8), (128, 128), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    if damaged:
        rubble = cv2.resize(random.integers(0, 256, (64, 64), np.uint8), (128, 128), interpolation=cv2.INTER_NEAREST)
        fields[12:116, 12:116] = 0.4 * fields[12:116, 12:116] + 0.6 * rubble[12:116, 12:116]
    return np.repeat(np.clip(fields, 0, 255).astype(np.uint8)[:, :, None], 3, 2)
