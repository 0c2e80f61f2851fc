"""`almena train`: a classifier from labelled pictures of your own."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.commands.models import progress_bars
from agent.errors import UsageError
from engines.errors import MissingRuntimeError
from engines.fetch import ensure_asset
from training.recipe import Recipe, load

if TYPE_CHECKING:
    from training.run import Trained
    from training.state import Epoch

log = logging.getLogger(__name__)

app = typer.Typer(add_completion=False)


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="A folder for each class, or train/ and val/ of those; CSV beside them: docs/training.md.")],
    recipe: Annotated[str, typer.Option(help="A recipe of Almena's (chest-xray, satellite), or a file of your own ending in .yaml.")],
    out: Annotated[Path | None, typer.Option(help="Where the training is kept and its model written; default: train-NAME.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the model and its card; default: that of the recipe.")] = None,
    version: Annotated[str, typer.Option(help="Of the card.")] = "1",
    network: Annotated[str | None, typer.Option(help="Another network than the recipe's.")] = None,
    weights: Annotated[str | None, typer.Option(help="Of a base network: a file, imagenet (fetched), or none.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Instead of the recipe's.")] = None,
    folds: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's; 0: one network, validated on val/.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    workers: Annotated[bool, typer.Option("--workers", help="Be one of several workers, as TF_CONFIG or a Kubernetes job says.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train a classifier, and write an ONNX model with its card. A training that was cut off goes on where it was.

    Example: `almena train --data chest-xray --recipe chest-xray`, then `almena eval classify --model train-chest-xray/chest-xray.yaml
    --data chest-xray/val`.
    """
    given = {"network": network, "epochs": epochs, "batch": batch, "folds": folds, "seed": seed}
    chosen = load(recipe, {key: value for key, value in given.items() if value is not None})
    title = name or Path(recipe).stem
    began = time.monotonic()
    trained = _train(chosen, title, data, out or Path(f"train-{title}"), version, _weights(chosen, weights), workers)
    if trained is None:
        return
    if as_json:
        seen = trained.out_of_fold
        record = {"card": str(trained.file.with_suffix(".yaml")), "model": trained.card.model_id, "seconds": time.monotonic() - began}
        print(json.dumps(record | {"out_of_fold": asdict(seen) if seen else None}, indent=2))
        return
    _say(trained)


def _train(recipe: Recipe, name: str, data: Path, out: Path, version: str, weights: str | None, several: bool) -> Trained | None:
    try:
        from training.data import divided, listing
        from training.run import Plan, train
        from training.workers import joined
    except ModuleNotFoundError as error:
        raise MissingRuntimeError(f"training needs {error.name}, which is not installed: pip install 'almena[train]'") from error
    with joined(several) as workers:
        if recipe.network == "efficientnet-lite0" and weights == "imagenet":
            listing(divided(data)[0])
            weights = str(_fetched(out))
        return train(Plan(name, recipe, data, out, version, weights), _tell, _looked, workers)


def _fetched(folder: Path) -> Path:
    """The weights that a training with efficientnet-lite0 starts from, which are no part of Keras. Raises FetchError, WrongHashError."""
    with progress_bars() as progress:
        return ensure_asset("efficientnet-lite0", folder, progress)


def _weights(recipe: Recipe, given: str | None) -> str | None:
    """A base starts from ImageNet unless another choice is given; the compact network has no weights to start from."""
    if recipe.network == "compact":
        if given not in (None, "none"):
            raise UsageError(f"--weights {given}: the compact network is trained from nothing; choose a --network that has such weights")
        return None
    return None if given == "none" else given or "imagenet"


def _tell(name: str, epoch: Epoch, left_s: float) -> None:
    typer.echo(
        f"{name}  epoch {epoch.epoch}  loss {epoch.loss:.4f}  validation {epoch.validation_loss:.4f},"
        f" {epoch.validation_accuracy:.1%} right  {epoch.seconds:.1f} s, at most {left_s / 60:.0f} min left for this network",
        err=True,
    )


def _looked(times: int, of: int, left_s: float) -> None:
    typer.echo(f"all pictures looked at {times} of {of} times, about {left_s / 60:.0f} min left", err=True)


def _say(trained: Trained) -> None:
    figures: Any = trained.out_of_fold
    if figures:
        low, high = figures.accuracy.interval
        print(f"out of fold, by the network that did not see the picture: {figures.accuracy.value:.1%} right ({low:.1%} to {high:.1%})")
    print(f"{trained.file} and its card {trained.file.with_suffix('.yaml')}: {trained.card.model_id}")
    print(f"Next: `almena eval classify --model {trained.file.with_suffix('.yaml')} --data DIR` on pictures of other patients.")
