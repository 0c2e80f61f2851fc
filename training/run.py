"""A whole training: folds, their networks, what they say of pictures that they did not see, and the model with its card."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.classification import ClassifierReport, fitted_temperature, operating_point, report, softmax
from calibration.plot import plot_classifier
from engines.card import ModelCard
from engines.files import replacing
from training import data
from training.data import Examples
from training.errors import DataError
from training.export import Findings, write_card, write_onnx
from training.loop import Judge, Trainer, Workers
from training.plots import curves
from training.recipe import Recipe
from training.state import Epoch, State

log = logging.getLogger(__name__)

PROBED = 8
Tell = Callable[[str, Epoch, float], None]
"""Called after every epoch: which network, the epoch, and seconds that are left for that network at this pace."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to train, on what, and where to. `weights` are those of a base: "imagenet", a file, or None."""

    name: str
    recipe: Recipe
    folder: Path
    out: Path
    version: str
    weights: str | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """The model's card, and what its networks said of pictures out of fold; None where there were no folds."""

    card: ModelCard
    file: Path
    out_of_fold: ClassifierReport | None


@dataclass(frozen=True, slots=True)
class _Division:
    """One network's pictures: those that it learns from, those that end its training, and those that it is asked about."""

    name: str
    learned: tuple[NDArray[np.uint8], NDArray[np.int64]]
    validation: tuple[NDArray[np.uint8], NDArray[np.int64]]
    asked: NDArray[np.intp]


def train(plan: Plan, tell: Tell, workers: Workers | None = None) -> Trained | None:
    """Train the plan's networks, or go on with them where an earlier run was cut off, and write model, card, figures and plots.

    Of several workers only the chief writes and gets an answer. Raises TrainingError, LabelsError.
    """
    recipe, workers = plan.recipe, workers or Workers()
    learned_from, validated_on = data.divided(plan.folder)
    examples = data.read(learned_from, recipe.input, recipe.labels)
    validation = data.read(validated_on, recipe.input, recipe.labels) if validated_on else None
    if validation:
        data.require_apart(examples, validation)
    states: dict[str, State] = {}
    logits = np.full((len(examples), len(recipe.labels)), np.nan)
    judge, key = Judge(recipe), _key(plan, examples, validation)
    for division in divisions(recipe, examples, validation):
        folder = plan.out / division.name
        trainer = Trainer(recipe, division.learned, division.validation, folder, key, judge, plan.weights, workers)
        states[division.name] = trainer.run(partial(tell, division.name))
        if len(division.asked):
            logits[division.asked] = judge.logits(states[division.name].best, examples.pictures[division.asked])
    return _written(plan, examples, states, logits) if workers.number == 0 else None


def divisions(recipe: Recipe, examples: Examples, validation: Examples | None) -> list[_Division]:
    """One for each fold: it is asked about that fold and learns from the others. Without a validation set the next fold serves as one."""
    whole = np.arange(len(examples))
    if not recipe.folds:
        if validation is None:
            raise DataError("without folds the training needs a folder `val` beside `train`; give one, or set folds to 2 or more")
        return [_Division("whole", examples.part(whole), (validation.pictures, validation.truth), whole[:0])]
    folds = data.grouped_folds(examples.truth, examples.groups, recipe.folds, recipe.seed)
    if validation is None and recipe.folds == 2:
        raise DataError("without a folder `val` beside `train` there must be at least 3 folds: one serves for validation")
    made = []
    for fold in range(recipe.folds):
        next_fold = (fold + 1) % recipe.folds
        spared = (folds == fold) | ((folds == next_fold) if validation is None else False)
        judged = examples.part(whole[folds == next_fold]) if validation is None else (validation.pictures, validation.truth)
        made.append(_Division(f"fold-{fold + 1}", examples.part(whole[~spared]), judged, whole[folds == fold]))
    return made


def _key(plan: Plan, examples: Examples, validation: Examples | None) -> str:
    """Of all that the course of a training depends on; the batch is left out, for it shrinks where memory runs out."""
    parts = [plan.recipe.model_dump_json(), examples.digest, validation.digest if validation else "", plan.weights or ""]
    return json.dumps(parts)


def _written(plan: Plan, examples: Examples, states: dict[str, State], logits: NDArray[np.float64]) -> Trained:
    recipe, out = plan.recipe, plan.out
    found, seen = findings(recipe, examples, logits)
    file = out / f"{plan.name}.onnx"
    probe = examples.pictures[np.linspace(0, len(examples) - 1, PROBED).astype(int)]
    write_onnx(recipe, [one.best for one in states.values()], file, probe)
    card = write_card(recipe, plan.name, plan.version, file, found)
    curves({name: one.history for name, one in states.items()}, out / "curves.png")
    if seen:
        plot_classifier(seen, softmax(logits, found.temperature), examples.truth, out / "out-of-fold.png")
    with replacing(out / "training.json") as temporary:
        temporary.write_text(json.dumps(_record(plan, examples, states, seen), indent=2), encoding="utf-8")
    return Trained(card, file, seen)


def findings(recipe: Recipe, examples: Examples, logits: NDArray[np.float64]) -> tuple[Findings, ClassifierReport | None]:
    """Temperature and operating point from what each network said of the fold that it did not see, and the figures there."""
    if np.isnan(logits).any():
        return Findings(1.0, None, "nothing: it was trained without folds, and answers with the likeliest class", ()), None
    temperature = fitted_temperature(logits, examples.truth)
    probabilities = softmax(logits, temperature)
    about = f"{len(examples)} pictures out of fold ({recipe.folds} folds by patient group), data {examples.digest[:12]}"
    threshold, chosen_on = None, f"temperature: {about}"
    if recipe.positive_place is not None:
        positive = examples.truth == recipe.positive_place
        threshold = operating_point(probabilities[:, recipe.positive_place], positive, recipe.sensitivity)
        chosen_on = f"temperature, and score for a sensitivity of {recipe.sensitivity:g} for {recipe.positive}: {about}"
    seen = report(probabilities, examples.truth, examples.labels, recipe.positive, threshold)
    expected = [{"metric": "accuracy of one network", "value": round(seen.accuracy.value or 0.0, 4), "data": about}]
    if seen.positive:
        figures = {"sensitivity": seen.positive.sensitivity, "specificity": seen.positive.specificity, "ROC AUC": seen.positive.roc_auc}
        expected += [
            {"metric": f"{metric} for {recipe.positive}, one network", "value": round(share.value or 0.0, 4), "data": about}
            for metric, share in figures.items()
        ]
    return Findings(temperature, threshold, chosen_on, tuple(expected)), seen


def _record(plan: Plan, examples: Examples, states: dict[str, State], seen: ClassifierReport | None) -> dict[str, Any]:
    return {
        "recipe": plan.recipe.model_dump(mode="json", exclude_none=True),
        "data": {"pictures": len(examples), "groups": len(set(examples.groups.tolist())), "digest": examples.digest},
        "networks": {
            name: {"best": asdict(one.best_epoch), "batch": one.batch, "epochs": [asdict(epoch) for epoch in one.history]}
            for name, one in states.items()
        },
        "out_of_fold": asdict(seen) if seen else None,
    }
