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
from training import networks, ood, state
from training.batches import normalised
from training.data import Examples
from training.errors import TrainingError
from training.recipe import Recipe

OUTPUTS = ("features", "logits", "maps")
AT_ONCE = 16
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
    """One network, or several that answer together: `logits` (N, K) and `maps` (N, K, h, w) are means over all members, and the pooled
    `features` (N, F) of all stand side by side.

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
        features = tf.concat([one["features"] for one in said], 1)
        return {"features": features, "logits": logits, "maps": tf.transpose(maps, (0, 3, 1, 2))}

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
    names = {output.name: name for output, name in zip(model.graph.output, OUTPUTS, strict=True)}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for output in model.graph.output:
        output.name = names[output.name]
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


def _require_same(recipe: Recipe, answer: Any, file: Path, probe: NDArray[np.uint8]) -> None:
    expected = answer(tf.constant(normalised(probe, recipe.input)))["logits"].numpy()
    apart = float(np.abs(answers(recipe, file, probe, "logits") - expected).max())
    if not apart <= APART:
        raise TrainingError(f"the ONNX file's logits are {apart:.2g} from Keras's; report this with the versions of tensorflow and tf2onnx")


def answers(recipe: Recipe, file: Path, pictures: NDArray[np.uint8], output: str) -> NDArray[np.float32]:
    """What the ONNX file says of pictures (N, H, W, C)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    parts = [pictures[start : start + AT_ONCE] for start in range(0, len(pictures), AT_ONCE)]
    return np.concatenate([session.run([output], {"picture": normalised(part, recipe.input)})[0] for part in parts])


def write_familiar(
    recipe: Recipe, file: Path, learned: Examples, folds: Sequence[NDArray[np.intp]], unseen: Examples | None
) -> dict[str, Any] | None:
    """What tells pictures unlike `learned`, beside the model, and what the card says of it.

    The limit is chosen out of fold where the features are those of a frozen base, which has learned from no picture, else on `unseen`;
    None where there are neither folds nor such pictures.
    """
    known = answers(recipe, file, learned.pictures, "features")
    found = ood.fitted(known, learned.truth)
    if recipe.head and folds:
        found = ood.limited(found, ood.out_of_fold(known, learned.truth, folds), learned.truth)
        about = f"{len(learned)} pictures out of fold ({len(folds)} folds by patient group), data {learned.digest[:12]}"
    elif unseen:
        found = ood.limited(found, found.distances(answers(recipe, file, unseen.pictures, "features")), unseen.truth)
        about = f"{len(unseen)} pictures that no network learned from, data {unseen.digest[:12]}"
    else:
        return None
    return ood.write(found, file.with_suffix(".npz"), f"{about}: of no class more than {ood.REFUSED:.0%} are refused")


def write_card(recipe: Recipe, name: str, version: str, model: Path, found: Findings, familiar: dict[str, Any] | None = None) -> ModelCard:
    """The card of `model`, beside it."""
    feed = recipe.input.model_dump(mode="json") | {"layout": "NHWC"}
    content: dict[str, Any] = {
        "name": name,
        "version": version,
        "title": recipe.card.title,
        "task": "classification",
        **recipe.card.model_dump(exclude={"title"}, exclude_defaults=True),
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
    if familiar:
        content["familiar"] = familiar
        content["decoder"]["params"]["features"] = "features"
    card = ModelCard.model_validate(content)
    with replacing(model.with_suffix(".yaml")) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=140), encoding="utf-8")
    return card
