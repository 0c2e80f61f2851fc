"""`almena eval classify`: a classifier on labelled pictures."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from agent.commands.needed import can_draw
from agent.errors import UsageError
from engines.answers import answer, to_spare
from engines.card import card_for

if TYPE_CHECKING:
    from calibration.classification import ClassifierReport, Confusion, OperatingPoint, Share
    from engines.card import ModelCard
    from engines.model import Classifier


def classify(
    model: Annotated[str, typer.Option(help="A classifier's model card, or a card file.")],
    data: Annotated[Path, typer.Option(help="A folder with a folder of pictures for each class.", exists=True, file_okay=False)],
    among: Annotated[str | None, typer.Option(help="Only these classes, comma-separated: what else is said or shown is left out.")] = None,
    rule: Annotated[
        Literal["classification", "study"], typer.Option(help="The task by whose rule `operating_point` decides; `study` abstains, too.")
    ] = "classification",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8, or auto: what the agent would run.")] = "fp32",
    backend: Annotated[str, typer.Option(help="A backend's name, or auto.")] = "auto",
    plot: Annotated[Path | None, typer.Option(help="Draw confusion matrix, calibration and ROC curve into this .png or .svg file.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file; default: built-in settings, files of the demo.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say of labelled pictures which class they are of, and how often that is right. Intervals are at 95 %.

    `accuracy` and the classes' figures are about the likeliest class; `operating_point` is about what the agent would decide.

    Example: `almena eval classify --model chest-xray --data val --json`
    """
    from calibration.classification import report
    from calibration.labels import class_files
    from calibration.plot import plot_classifier

    can_draw(plot)
    card = card_for(model, "classification")
    chosen = _chosen(card, among)
    files = [(path, chosen.index(place)) for path, place in class_files(card, data) if place in chosen]
    if not files:
        raise UsageError(f"{data} holds no picture of {among}")
    classifier = _opened(model, precision, backend, config)
    try:
        probabilities, reasons = _said(classifier, [path for path, _ in files], rule, chosen)
        engine = {"backend": classifier.passport.identity.backend, "precision": classifier.engine.precision}
    finally:
        classifier.close()
    truth, labels = np.array([place for _, place in files], np.int64), [card.labels[place] for place in chosen]
    positive = card.positive if card.positive in labels else None
    result = report(probabilities, truth, labels, positive, card.thresholds.score)
    point = _point(card.model_copy(update={"labels": tuple(labels), "positive": positive}), probabilities, reasons, truth, rule)
    if plot:
        plot_classifier(result, probabilities, truth, plot)
    print(json.dumps(_record(result, point, card, engine), indent=2) if as_json else f"{_text(result)}\n\n{_decisions(point)}")


def _chosen(card: ModelCard, among: str | None) -> list[int]:
    """Places of the labels that count. Raises UsageError."""
    if among is None:
        return list(range(len(card.labels)))
    names = [name.strip() for name in among.split(",")]
    if len(set(names)) < 2 or not set(names) <= set(card.labels):
        raise UsageError(f"--among {among}: give two or more of {', '.join(card.labels)}")
    return sorted(card.labels.index(name) for name in set(names))


def _opened(model: str, precision: str, backend: str, config: Path | None) -> Classifier:
    from agent import settings
    from agent.commands.evaluate import demo_settings
    from agent.commands.models import progress_bars
    from agent.vision.face_kit import engine_options
    from engines.model import load_classifier

    with progress_bars() as fetching:
        options = engine_options(settings.load(config) if config else demo_settings())
        return load_classifier(model, replace(options, precision=precision, backend=backend, progress=fetching))


def _said(classifier: Classifier, files: list[Path], rule: str, chosen: list[int]) -> tuple[NDArray[np.float64], list[str]]:
    """Probabilities (N, L) of the pictures in `files` among the labels `chosen`, and why the task would not look at them.

    Raises LabelsError, EngineError.
    """
    from agent.vision.frontal import frontal
    from calibration.labels import read_picture
    from engines.familiar import familiar
    from engines.preprocess import opencv

    rows, reasons = [], []
    known, chest = (familiar(classifier.card), frontal()) if rule == "study" else (None, None)
    for path in track(files, "pictures", console=Console(stderr=True)):
        picture = read_picture(path)
        said = classifier.classify([picture])
        rows.append(said.probabilities)
        strange = known and said.features is not None and known.objection(said.features[0])
        other = chest and chest.objection(opencv().cvtColor(picture, opencv().COLOR_BGR2GRAY))
        reasons.append("pixels" if other else "unfamiliar" if strange else "")
    probabilities = np.concatenate(rows).astype(np.float64)[:, chosen]
    return np.asarray(probabilities / probabilities.sum(1, keepdims=True), np.float64), reasons


def _point(card: ModelCard, probabilities: NDArray[np.float64], reasons: list[str], truth: NDArray[np.int64], rule: str) -> OperatingPoint:
    from calibration.classification import decided

    answers, told = _answers(card, probabilities, reasons, rule)
    return decided(rule, answers, told, truth, card.labels, card.positive, card.thresholds.score if card.positive else None)


def _answers(card: ModelCard, probabilities: NDArray[np.float64], reasons: list[str], rule: str) -> tuple[list[str], list[str]]:
    """What the task answers, "" where it abstains, and then why."""
    from agent.vision.tasks.study_config import StudyConfig

    margin, limit = StudyConfig().margin if rule == "study" else 0.0, card.thresholds.score
    answers, told = [], []
    for row, reason in zip(probabilities.tolist(), reasons, strict=True):
        close = margin and card.positive and limit and to_spare(card, row, limit) < margin
        told.append(reason or ("margin" if close else ""))
        answers.append("" if told[-1] else answer(card, row))
    return answers, told


def _record(result: ClassifierReport, point: OperatingPoint, card: ModelCard, engine: dict[str, str]) -> dict[str, Any]:
    """The figures; `accuracy` as a number of its own."""
    about = {"model": card.model_id, **engine, "intervals": {"level": 0.95, "shares": "Wilson", "others": "bootstrap over pictures"}}
    accuracy = {"accuracy": result.accuracy.value, "accuracy_interval": result.accuracy.interval, "accuracy_of": "the likeliest class"}
    return about | asdict(result) | accuracy | {"operating_point": asdict(point)}


def _text(result: ClassifierReport) -> str:
    wide = max(12, *(len(label) + 2 for label in result.confusion.labels))
    lines = [f"accuracy  {_share(result.accuracy)} of {result.pictures} pictures, by the likeliest class", ""]
    lines += [f"{'class':{wide}}{'precision':32}{'recall':32}F1"]
    for label, found in result.classes.items():
        lines.append(f"{label:{wide}}{_share(found.precision):32}{_share(found.recall):32}{_share(found.f1)}")
    lines += ["", *_table(result.confusion, wide)]
    lines += ["", *(f"{names} alone told apart: {_share(share)}" for names, share in result.pairs.items())]
    if positive := result.positive:
        where = "where it is the likeliest" if positive.threshold is None else f"from a probability of {positive.threshold:g} on"
        lines += [
            f"{positive.label} against all others, {where}: sensitivity {_share(positive.sensitivity)},"
            f" specificity {_share(positive.specificity)}, ROC AUC {_share(positive.roc_auc)}"
        ]
    lines += [f"calibration error {_share(result.calibration_error)}", "Intervals at 95 %: Wilson's for shares, bootstrap for the others."]
    return "\n".join(lines)


def _table(confusion: Confusion, wide: int) -> list[str]:
    rows = zip(confusion.labels, confusion.counts, strict=False)
    head = f"{'truth, down; answer, across':30}" + "".join(f"{label:>{wide}}" for label in confusion.labels)
    return [head, *(f"{label:30}" + "".join(f"{count:>{wide}}" for count in row) for label, row in rows)]


def _decisions(point: OperatingPoint) -> str:
    """What the agent would decide."""
    limit = "the likeliest class" if point.threshold is None else f"positive from {point.threshold:g} on"
    lines = [f"At the operating point ({limit}), as the task {point.rule} decides:"]
    lines += [f"accuracy  {_share(point.accuracy)} of those answered, which are {_share(point.answered)}"]
    if point.abstained:
        lines.append("no answer: " + ", ".join(f"{count} by {reason}" for reason, count in point.abstained.items()))
    lines += _table(point.confusion, max(12, *(len(label) + 2 for label in point.confusion.labels)))
    if point.sensitivity and point.specificity:
        lines.append(f"sensitivity {_share(point.sensitivity)}, specificity {_share(point.specificity)}")
    return "\n".join(lines)


def _share(share: Share) -> str:
    if share.value is None or share.interval is None:
        return "nothing to judge"
    return f"{share.value:.3f} ({share.interval[0]:.3f} to {share.interval[1]:.3f})"
