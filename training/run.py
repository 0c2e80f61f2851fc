"""A whole training: folds, their networks, what they say of pictures that they did not see, and the model with its card."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
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
from training.errors import DataError, TrainingError
from training.export import Findings, answers, write_card, write_familiar, write_onnx
from training.heads import Heads, Looked
from training.loop import Judge, Trainer, Workers
from training.plots import curves
from training.recipe import Recipe
from training.state import Epoch, State, merged

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
    learned: NDArray[np.intp]
    validation: tuple[NDArray[np.uint8], NDArray[np.int64]]
    asked: NDArray[np.intp]


def train(plan: Plan, tell: Tell, looked: Looked, workers: Workers | None = None) -> Trained | None:
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
    if recipe.head and workers.count > 1:
        raise TrainingError("a head in closed form is fitted by one machine in minutes; start it without --workers")
    heads = Heads(recipe, recipe.head, examples, plan.weights, plan.out / "views", key, looked) if recipe.head else None
    divided = divisions(recipe, examples, validation)
    for division in divided:
        folder, name = plan.out / division.name, division.name
        if heads:
            states[name] = heads.state(division.learned, division.validation, judge)
            tell(name, states[name].best_epoch, 0.0)
        else:
            learned = examples.part(division.learned)
            states[name] = Trainer(recipe, learned, division.validation, folder, key, judge, plan.weights, workers).run(partial(tell, name))
        if len(division.asked):
            logits[division.asked] = judge.logits(states[name].best, examples.pictures[division.asked])
    if workers.number:
        return None
    return _written(plan, examples, validation, states, logits, [one.asked for one in divided if len(one.asked)])


def divisions(recipe: Recipe, examples: Examples, validation: Examples | None) -> list[_Division]:
    """One for each fold: it is asked about that fold and learns from the others. Without a validation set the next fold serves as one."""
    whole = np.arange(len(examples))
    if not recipe.folds:
        if validation is None:
            raise DataError("without folds the training needs a folder `val` beside `train`; give one, or set folds to 2 or more")
        return [_Division("whole", whole, (validation.pictures, validation.truth), whole[:0])]
    folds = data.grouped_folds(examples.truth, examples.groups, recipe.folds, recipe.seed)
    if validation is None and recipe.folds == 2:
        raise DataError("without a folder `val` beside `train` there must be at least 3 folds: one serves for validation")
    made = []
    for fold in range(recipe.folds):
        next_fold = (fold + 1) % recipe.folds
        spared = (folds == fold) | ((folds == next_fold) if validation is None else False)
        judged = examples.part(whole[folds == next_fold]) if validation is None else (validation.pictures, validation.truth)
        made.append(_Division(f"fold-{fold + 1}", whole[~spared], judged, whole[folds == fold]))
    return made


def _key(plan: Plan, examples: Examples, validation: Examples | None) -> str:
    """Of all that the course of a training depends on; the batch is left out, for it shrinks where memory runs out."""
    parts = [plan.recipe.model_dump_json(), examples.digest, validation.digest if validation else "", plan.weights or ""]
    return json.dumps(parts)


def _written(
    plan: Plan,
    examples: Examples,
    validation: Examples | None,
    states: dict[str, State],
    logits: NDArray[np.float64],
    folds: list[NDArray[np.intp]],
) -> Trained:
    recipe, out = plan.recipe, plan.out
    members = [merged(list(states.values()))] if recipe.head else [one.best for one in states.values()]
    found, seen = findings(recipe, examples, logits)
    file = out / f"{plan.name}.onnx"
    probe = examples.pictures[np.linspace(0, len(examples) - 1, PROBED).astype(int)]
    write_onnx(recipe, members, file, probe)
    known = write_familiar(recipe, file, examples, folds, validation)
    if validation:
        said = softmax(answers(recipe, file, validation.pictures, "logits").astype(np.float64), found.temperature)
        judged = report(said, validation.truth, validation.labels, recipe.positive, found.threshold)
        about = f"{len(validation)} pictures of other patients (val), data {validation.digest[:12]}"
        found = replace(found, expected=(*figures(judged, about, ""), *found.expected))
    card = write_card(recipe, plan.name, plan.version, file, found, known)
    if not recipe.head:
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
    return Findings(temperature, threshold, chosen_on, figures(seen, about, " of one network")), seen


def figures(judged: ClassifierReport, about: str, whose: str) -> tuple[dict[str, Any], ...]:
    """What the card says of them: of the likeliest class, and of the positive class at its operating point."""
    shares = {"accuracy": judged.accuracy}
    if positive := judged.positive:
        shares |= {" against ".join(two): judged.pairs[", ".join(two)] for two in combinations(judged.classes, 2) if positive.label in two}
        shares[f"sensitivity for {positive.label} at the operating point"] = positive.sensitivity
        shares[f"specificity for {positive.label} at the operating point"] = positive.specificity
        shares[f"ROC AUC for {positive.label}"] = positive.roc_auc
    told = {name: share.value for name, share in shares.items() if share.value is not None}
    return tuple({"metric": f"{name}{whose}", "value": round(value, 4), "data": about} for name, value in told.items())


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
