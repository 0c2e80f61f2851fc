"""`almena eval classify`: a classifier on labelled pictures."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from agent.errors import UsageError

if TYPE_CHECKING:
    from calibration.classification import ClassifierReport, Share
    from engines.card import ModelCard
    from engines.model import Classifier


def classify(
    model: Annotated[str, typer.Option(help="A classifier's model card, or a card file.")],
    data: Annotated[Path, typer.Option(help="A folder with a folder of pictures for each class.", exists=True, file_okay=False)],
    among: Annotated[str | None, typer.Option(help="Only these classes, comma-separated: what else is said or shown is left out.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16, int8, or auto: what the agent would run.")] = "fp32",
    backend: Annotated[str, typer.Option(help="A backend's name, or auto.")] = "auto",
    plot: Annotated[Path | None, typer.Option(help="Draw confusion matrix, calibration and ROC curve into this .png or .svg file.")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file; default: built-in settings, files of the demo.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say of labelled pictures which class they are of, and how often that is right. Intervals are at 95 %.

    Example: `almena eval classify --model chest-xray --data val --json`
    """
    from calibration.classification import report
    from calibration.labels import class_files
    from calibration.plot import SUFFIXES, plot_classifier
    from engines.card import card_for

    if plot and plot.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--plot {plot}: give a file that ends in {' or '.join(SUFFIXES)}")
    card = card_for(model, "classification")
    chosen = _chosen(card, among)
    files = [(path, chosen.index(place)) for path, place in class_files(card, data) if place in chosen]
    if not files:
        raise UsageError(f"{data} holds no picture of {among}")
    classifier = _opened(model, precision, backend, config)
    try:
        probabilities = _probabilities(classifier, [path for path, _ in files])[:, chosen]
        engine = {"backend": classifier.passport.identity.backend, "precision": classifier.engine.precision}
    finally:
        classifier.close()
    probabilities /= probabilities.sum(1, keepdims=True)
    truth, labels = np.array([place for _, place in files], np.int64), [card.labels[place] for place in chosen]
    result = report(probabilities, truth, labels, card.positive if card.positive in labels else None, card.thresholds.score)
    if plot:
        plot_classifier(result, probabilities, truth, plot)
    print(json.dumps(_record(result, card, engine), indent=2) if as_json else _text(result))


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


def _probabilities(classifier: Classifier, files: list[Path]) -> NDArray[np.float64]:
    """(N, L) of the pictures in `files`. Raises LabelsError, EngineError."""
    from calibration.labels import read_picture

    shown = track(files, "pictures", console=Console(stderr=True))
    return np.concatenate([classifier.classify([read_picture(path)]).probabilities for path in shown]).astype(np.float64)


def _record(result: ClassifierReport, card: ModelCard, engine: dict[str, str]) -> dict[str, Any]:
    """The figures; `accuracy` as a number of its own."""
    about = {"model": card.model_id, **engine, "intervals": {"level": 0.95, "shares": "Wilson", "others": "bootstrap over pictures"}}
    accuracy = {"accuracy": result.accuracy.value, "accuracy_interval": result.accuracy.interval}
    return about | asdict(result) | accuracy


def _text(result: ClassifierReport) -> str:
    labels = result.confusion.labels
    wide = max(12, *(len(label) + 2 for label in labels))
    lines = [f"accuracy  {_share(result.accuracy)} of {result.pictures} pictures", ""]
    lines += [f"{'class':{wide}}{'precision':32}{'recall':32}F1"]
    for label, found in result.classes.items():
        lines.append(f"{label:{wide}}{_share(found.precision):32}{_share(found.recall):32}{_share(found.f1)}")
    lines += ["", f"{'truth, down; answer, across':30}" + "".join(f"{label:>{wide}}" for label in labels)]
    lines += [
        f"{label:30}" + "".join(f"{count:>{wide}}" for count in row) for label, row in zip(labels, result.confusion.counts, strict=True)
    ]
    lines += ["", *(f"{names} alone told apart: {_share(share)}" for names, share in result.pairs.items())]
    if positive := result.positive:
        where = "where it is the likeliest" if positive.threshold is None else f"from a probability of {positive.threshold:g} on"
        lines += [
            f"{positive.label} against all others, {where}: sensitivity {_share(positive.sensitivity)},"
            f" specificity {_share(positive.specificity)}, ROC AUC {_share(positive.roc_auc)}"
        ]
    lines += [f"calibration error {_share(result.calibration_error)}", "Intervals at 95 %: Wilson's for shares, bootstrap for the others."]
    return "\n".join(lines)


def _share(share: Share) -> str:
    if share.value is None or share.interval is None:
        return "nothing to judge"
    return f"{share.value:.3f} ({share.interval[0]:.3f} to {share.interval[1]:.3f})"
