"""`almena bench parity`: whether a faster engine decides as FP32 does."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from agent.commands.calibrate import pictures, told
from agent.commands.tune import cards, seconds, settings_of, wide_console

if TYPE_CHECKING:
    from calibration.agreement import OnClip, OnPairs
    from engines.card import ModelCard


def parity(
    model: Annotated[str, typer.Argument(help="A detector or an embedder: a card or a card file.")],
    source: Annotated[
        str | None, typer.Option("--source", "-s", help="For a detector: a video, a folder, a camera, or a stream of the settings.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Take only each so many-th frame.")] = 1,
    watch: Annotated[str, typer.Option(help="How long a camera is watched: 60s, 5m.")] = "60s",
    pairs: Annotated[
        Path | None, typer.Option(help="For an embedder: CSV with file_x, file_y, Decision (Yes or No).", exists=True, dir_okay=False)
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="The folder from which the files in it count; default: its own.", exists=True, file_okay=False)
    ] = None,
    backend: Annotated[str | None, typer.Option(help="A runtime; default: all that compute in that precision here.")] = None,
    precision: Annotated[Literal["int8", "fp16", "bf16"], typer.Option(help="What is compared with FP32.")] = "int8",
    detector: Annotated[str, typer.Option(help="The card that finds the faces for an embedder.")] = "centerface",
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file; default: almena.yaml if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The same decisions as FP32, on the same runtime: a detector's faces on a clip, an embedder's on labelled pairs.

    Ends with 1 where the number of faces or their mean IoU is further from FP32 than the card allows, or the accuracy on pairs differs by
    more than 0.3 points. int8 needs `almena calibrate`.

    Examples: `almena bench parity centerface --source clip.mp4`, `almena bench parity dlib-resnet --pairs pairs.csv --root photographs`
    """
    from agent.vision.face_kit import engine_options
    from calibration.agreement import on_clip, on_pairs

    options = engine_options(settings := settings_of(config))
    (card,) = cards([model], options)
    names = _names(card, backend, precision, {"face-detection": ("--source", source), "face-embedding": ("--pairs", pairs)})
    found: list[OnClip] | list[OnPairs] = []
    if source is not None and card.task == "face-detection":
        with told(card.name) as tell, closing(pictures(source, settings, seconds(watch), tell)) as frames:
            found = on_clip(card, options, names, precision, islice(frames, 0, None, every))
    elif pairs is not None:
        found = on_pairs(card, options, names, precision, pairs, root or pairs.parent, detector)
    _tell(card.model_id, [asdict(one) | {"within": not one.why} for one in found], as_json)


def _names(card: ModelCard, backend: str | None, precision: str, needed: dict[str, tuple[str, Any]]) -> list[str]:
    """Of the backends to compare. `needed`: by task the option that it takes, and what was given."""
    from calibration.agreement import backends

    if card.task not in needed:
        raise typer.BadParameter(
            f"{card.name} is for {card.task}: `almena calibrate --labels` and `almena bench matrix` compare its accuracy"
        )
    option, given = needed[card.task]
    if given is None:
        raise typer.BadParameter(f"{card.name} is for {card.task} and needs {option}", param_hint=option)
    return [backend] if backend else backends(card, precision)


def _tell(model: str, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print, and end with 1 unless all is within what is allowed."""
    if as_json:
        print(json.dumps({"model": model, "rows": rows}, indent=2))
    else:
        _print([_row(row) for row in rows], model)
    if not all(row["within"] for row in rows):
        raise typer.Exit(1)


def _row(figures: dict[str, Any]) -> dict[str, str]:
    """As words, by heading."""
    row = {"backend": figures["backend"], "precision": figures["precision"]}
    if "frames" in figures:
        row |= {"frames": f"{figures['frames']}", "faces, FP32": f"{figures['faces']}", "faces": f"{figures['found']}"}
        row |= {"both": f"{figures['both']}", "mean IoU": f"{figures['mean_overlap']:.4f}"}
    else:
        row |= {"pairs": f"{figures['pairs']}", "decided otherwise": f"{figures['differing']}"}
        for metric, value in figures["fp32"].items():
            row |= {f"{metric}, FP32": f"{value:.4f}", metric: f"{figures['candidate'][metric]:.4f}"}
    return row | {"": figures["why"] or "within what is allowed"}


def _print(rows: list[dict[str, str]], model: str) -> None:
    console, table = wide_console(), Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*row.values())
    console.print(model)
    console.print(table)
