"""A model of one's own, small enough to compute by hand: a card and an ONNX file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper

SIDE = 8
LABELS = ("dark", "bright")


def small_card(folder: Path, name: str = "brightness") -> Path:
    """A classifier of 8x8 grey pictures: its logit is their mean brightness, 0..255, less 128."""
    shapes = {"x": ["n", 1, SIDE, SIDE], "logit": ["n", 1]}
    x, logit = (helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in shapes.items())
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Sub", ["flat", "middle"], ["logit"]),
    ]
    middle = helper.make_tensor("middle", TensorProto.FLOAT, [1], [128.0])
    graph = helper.make_graph(nodes, "small", [x], [logit], [middle])
    file = folder / f"{name}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    content = {
        "name": name,
        "version": "3",
        "title": "mean brightness",
        "task": "classification",
        "licence": "Apache-2.0",
        "training_data": "none",
        "source": {"kind": "local", "path": file.name},
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "format": "onnx",
        "input": {"layout": "NCHW", "colour": "GREY", "sizes": [[SIDE, SIDE]], "resize": "stretch"},
        "decoder": {"name": "classification", "params": {"output": "logit", "activation": "sigmoid"}},
        "labels": list(LABELS),
        "positive": "bright",
        "thresholds": {"chosen_on": "nothing"},
        "allowance": {"probability": 0.01, "agreement": 0.99},
    }
    card = folder / f"{name}.yaml"
    card.write_text(yaml.safe_dump(content))
    return card


def noise(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures for it, each of another brightness, (count, 8, 8, 1)."""
    random = np.random.default_rng(seed)
    top = random.integers(1, 256, count)
    return np.stack([random.integers(0, most + 1, (SIDE, SIDE, 1), np.uint8) for most in top])


def logits(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What it says of them, (n, 1)."""
    return (pictures.astype(np.float64).mean((1, 2, 3)) - 128.0).astype(np.float32)[:, None]
