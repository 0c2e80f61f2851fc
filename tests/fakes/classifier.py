"""A small classifier with weights of its own, its card, and pictures of its two classes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import yaml
from onnx import TensorProto, helper, numpy_helper

from engines.card import ModelCard, card
from engines.files import sha256
from engines.preprocess import Image

SIDE = 32


def save_model(path: Path, spread: float = 1.0) -> Path:
    """Two convolutions, a mean, a dense layer; free batch, height and width.

    With a `spread` one channel of the second convolution is that much larger and then not looked at: in 8 bits it drowns the others.
    """
    random = np.random.default_rng(3)
    first = random.normal(0, 0.3, (8, 1, 3, 3)).astype(np.float32)
    second = random.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32)
    second[0] *= spread
    last = random.normal(0, 1, (8, 2)).astype(np.float32)
    last[0] *= spread == 1.0
    weights = {
        "w1": first, "b1": random.normal(0, 0.1, 8).astype(np.float32), "w2": second, "b2": np.zeros(8, np.float32),
        "w3": last, "b3": np.zeros(2, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"], "bent"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], "bent2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["mean"], "pool"),
        helper.make_node("Flatten", ["mean"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        nodes, "two-classes",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )  # fmt: skip
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    return path


def save_card(folder: Path, probability: float = 0.05, spread: float = 1.0) -> ModelCard:
    """The card of that model, allowed to lose `probability`; its file lies beside it."""
    model = save_model(folder / "two-classes.onnx", spread)
    content = {
        "name": "two-classes", "version": "1", "title": "stripes", "task": "classification", "licence": "CC0-1.0", "training_data": "none",
        "source": {"kind": "local", "path": model.name}, "sha256": sha256(model), "format": "onnx",
        "input": {"layout": "NCHW", "colour": "GREY", "sizes": [[SIDE, SIDE]], "mean": [128.0], "scale": [64.0], "resize": "stretch"},
        "decoder": {"name": "classification", "params": {"output": "y", "activation": "softmax"}}, "labels": ["lying", "standing"],
        "thresholds": {"chosen_on": "nothing"}, "allowance": {"probability": probability, "agreement": 0.5},
    }  # fmt: skip
    path = folder / "two-classes.yaml"
    path.write_text(yaml.safe_dump(content))
    return card(str(path))


def stripes(count: int, standing: bool = False, seed: int = 0) -> list[Image]:
    """Pictures (40, 48, 3) of noisy stripes and blobs, each unlike the others."""
    random = np.random.default_rng(seed + 100 * standing)
    found = []
    for _ in range(count):
        coarse = random.integers(0, 256, (6, 6, 1), np.uint8)
        picture = cv2.resize(coarse, (48, 40), interpolation=cv2.INTER_CUBIC).reshape(40, 48, 1).astype(np.float32)
        lines = np.arange(48 if standing else 40) % 4 < 2
        picture = picture * 0.7 + 70 * (lines[None, :, None] if standing else lines[:, None, None])
        found.append(np.repeat(np.clip(picture, 0, 255).astype(np.uint8), 3, 2))
    return found
