"""Trained networks as one ONNX file, and the card that describes it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import yaml
from numpy.typing import NDArray

from engines.card import ModelCard
from engines.convert.tensorflow import OnnxFromSavedModel
from engines.files import replacing, sha256
from training import networks, state
from training.batches import normalised
from training.errors import TrainingError
from training.recipe import Recipe

APART = 1e-3
"""How far a logit of the ONNX file may be from that of Keras."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a training found out about its networks, for the card: `chosen_on` says of what data; `expected` are the card's figures."""

    temperature: float
    threshold: float | None
    chosen_on: str
    expected: tuple[dict[str, Any], ...]


def write_onnx(recipe: Recipe, members: Sequence[state.Arrays], target: Path, probe: NDArray[np.uint8]) -> None:
    """One network, or several that answer together: `logits` (N, K) and `maps` (N, K, h, w) are means over all members.

    Raises TrainingError where the file answers otherwise than Keras for the pictures `probe`.
    """
    built = []
    for weights in members:
        built.append(networks.build(recipe))
        built[-1].set_weights(weights)
    width, height = recipe.input.sizes[0]

    def answer(picture: Any) -> dict[str, Any]:
        said = [member(picture, training=False) for member in built]
        logits, maps = (tf.add_n([one[name] for one in said]) / len(said) for name in ("logits", "maps"))
        return {"logits": logits, "maps": tf.transpose(maps, (0, 3, 1, 2))}

    module = tf.Module()
    module.members = built
    signature = tf.TensorSpec((None, height, width, recipe.input.channels), tf.float32, "picture")
    module.serve = tf.function(answer, input_signature=[signature])
    with tempfile.TemporaryDirectory(prefix="almena-train-") as folder, replacing(target) as temporary:
        tf.saved_model.save(module, folder, signatures={"serving_default": module.serve})
        OnnxFromSavedModel().convert(Path(folder), temporary)
        _name_outputs(temporary)
        _require_same(recipe, answer, temporary, probe)


def _name_outputs(file: Path) -> None:
    """tf2onnx names them after the graph's last nodes, in the order of the signature's names."""
    model = onnx.load(str(file))
    names = {output.name: name for output, name in zip(model.graph.output, ("logits", "maps"), strict=True)}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for output in model.graph.output:
        output.name = names[output.name]
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


def _require_same(recipe: Recipe, answer: Any, file: Path, probe: NDArray[np.uint8]) -> None:
    import onnxruntime

    inputs = normalised(probe, recipe.input)
    (got,) = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"]).run(["logits"], {"picture": inputs})
    apart = float(np.abs(got - answer(tf.constant(inputs))["logits"].numpy()).max())
    if not apart <= APART:
        raise TrainingError(f"the ONNX file's logits are {apart:.2g} from Keras's; report this with the versions of tensorflow and tf2onnx")


def write_card(recipe: Recipe, name: str, version: str, model: Path, found: Findings) -> ModelCard:
    """The card of `model`, beside it."""
    feed = recipe.input.model_dump(mode="json") | {"layout": "NHWC"}
    content = {
        "name": name,
        "version": version,
        "title": recipe.card.title,
        "task": "classification",
        "licence": recipe.card.licence,
        "training_data": recipe.card.training_data,
        "source": {"kind": "local", "path": model.name},
        "sha256": sha256(model),
        "format": "onnx",
        "input": feed,
        "decoder": {
            "name": "classification",
            "params": {"output": "logits", "activation": "softmax", "temperature": round(found.temperature, 4), "maps": "maps"},
        },
        "labels": list(recipe.labels),
        "positive": recipe.positive,
        "thresholds": {"score": None if found.threshold is None else round(found.threshold, 4), "chosen_on": found.chosen_on},
        "expected": list(found.expected),
        "allowance": recipe.allowance.model_dump(exclude_none=True),
    }
    card = ModelCard.model_validate(content)
    with replacing(model.with_suffix(".yaml")) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=140), encoding="utf-8")
    return card
