"""`almena eval`: how accurate the models are on labelled data of your own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from agent import settings as settings_module
from agent.commands.evaluate_classify import classify
from agent.errors import UsageError
from agent.settings import Settings

if TYPE_CHECKING:
    from calibration.verification import Verification

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def evaluate() -> None:
    """Measure accuracy on labelled data of your own."""


app.command()(classify)


@app.command()
def faces(
    pairs: Annotated[Path, typer.Option(help="CSV with the columns file_x, file_y, Decision (Yes or No).", exists=True, dir_okay=False)],
    root: Annotated[Path, typer.Option(help="The folder from which the files in it count.", exists=True, file_okay=False)],
    detector: Annotated[str, typer.Option(help="A detector's model card.")] = "centerface",
    embedder: Annotated[str, typer.Option(help="An embedder's model card.")] = "dlib-resnet",
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Settings file; default: built-in settings, files of the demo.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell pairs of photographs apart: same person or not, by the largest face of each.

    Engines run at FP32: the figures are the models' own.

    The pairs of a picture without a face, or that cannot be decoded, count as answered "No". Exit code 2 for a bad list of pairs.
    """
    from calibration.verification import PairsError

    try:
        result = _verify(pairs, root, settings_module.load(config) if config else demo_settings(), detector, embedder)
    except PairsError as error:
        raise UsageError(str(error)) from error
    print(json.dumps(_record(result, detector, embedder), indent=2) if as_json else _text(result))


def _verify(pairs: Path, root: Path, settings: Settings, detector_name: str, embedder_name: str) -> Verification:
    from dataclasses import replace

    from agent.commands.models import progress_bars
    from agent.vision.face_kit import engine_options
    from agent.vision.recognition import operating_point
    from calibration.verification import read_pairs, verify
    from engines.model import load_detector, load_embedder

    listed = read_pairs(pairs, root)
    with progress_bars() as fetching:
        options = replace(engine_options(settings), precision="fp32", progress=fetching)
        detector, embedder = load_detector(detector_name, options), load_embedder(embedder_name, options)
    try:
        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task("pictures")
            return verify(
                listed, root, detector, embedder, operating_point(embedder.card).verify,
                lambda done, total: bar.update(task, completed=done, total=total),
            )  # fmt: skip
    finally:
        detector.close()
        embedder.close()


def demo_settings() -> Settings:
    """Built-in settings, with the files of the demo."""
    from agent.home import default_folder

    folder = default_folder()
    return Settings.model_validate({"state_dir": folder / "state", "engines": {"models_dir": folder / "models"}})


def _record(result: Verification, detector: str, embedder: str) -> dict[str, Any]:
    intervals = {"level": 0.95, "accuracy": "Wilson", "best_accuracy": "Wilson", "roc_auc": "bootstrap", "eer": "bootstrap"}
    return asdict(result) | {"intervals": intervals, "detector": detector, "embedder": embedder}


def _text(result: Verification) -> str:
    lines = [
        f"pairs          {result.pairs} ({result.same} of one person), {result.images} pictures",
        f"accuracy       {_share(result.accuracy, result.accuracy_interval)} at the operating point {result.threshold:g}",
        f"               {result.wrong_accepts} wrongly accepted, {result.wrong_rejects} wrongly rejected",
        f"best accuracy  {_share(result.best_accuracy, result.best_accuracy_interval)} at {result.best_threshold:.3f}",
        f"ROC AUC        {_share(result.roc_auc, result.roc_auc_interval)}",
        f"EER            {_share(result.eer, result.eer_interval)}",
        f"no face        {', '.join(result.images_without_face) or 'in no picture'}",
        *(f"no picture     {name}: {reason}" for name, reason in result.images_unreadable.items()),
        "Intervals at 95 %: Wilson's for accuracies, bootstrap over pairs for the others.",
    ]
    return "\n".join(lines)


def _share(value: float | None, interval: tuple[float, float] | None) -> str:
    if value is None or interval is None:
        return "needs pairs of both kinds"
    return f"{value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})"
