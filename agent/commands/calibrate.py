"""`almena calibrate`: INT8 of a model from pictures of the device's own, gated against FP32."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from agent.commands.tune import cards, seconds, settings_of, wide_console
from agent.errors import AlmenaError, SettingsError
from agent.settings import Settings

if TYPE_CHECKING:
    from agent.datatypes import Image
    from calibration.calibrator import Outcome
    from engines.parity import Parity

log = logging.getLogger(__name__)

app = typer.Typer(add_completion=False)

SHOWN = 8
"""Nodes of the sensitivity table that are printed."""


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="A card, a card file, or a model of the bench.")],
    frames: Annotated[
        str,
        typer.Option(help="A folder of pictures, a video file, a camera (/dev/video0, rtsp://…, http://…), or a stream of the settings."),
    ],
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels for the gate: a folder for each class; JSON or CSV of boxes; CSV of pairs.", exists=True),
    ] = None,
    flavour: Annotated[
        Literal["auto", "u8s8", "s8s8", "both"], typer.Option(help="u8s8: x86; s8s8: TensorRT and ARM; auto: what the runtimes here want.")
    ] = "auto",
    ranges: Annotated[
        Literal["auto", "minmax", "entropy", "percentile"], typer.Option(help="auto takes those that give the least noise.")
    ] = "auto",
    samples: Annotated[int, typer.Option(min=12, max=2000, help="Pictures at most; a quarter is for the verdict: 80 and more.")] = 96,
    watch: Annotated[str, typer.Option(help="How long a camera is watched: 60s, 5m.")] = "60s",
    budget: Annotated[str, typer.Option(help="For what has to stay in float, for each flavour: 60s, 10m.")] = "5m",
    detector: Annotated[str, typer.Option(help="The card that finds the faces for an embedder.")] = "centerface",
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file; default: almena.yaml if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make an INT8 model that passes its card's gate. Frames stay in memory; none is stored or sent.

    Layers that cost more accuracy than the card allows are left in float; what fails even so is refused with the figures (exit code 1).
    """
    from agent.vision.face_kit import engine_options
    from calibration.calibrator import Calibrator, Wishes

    options = engine_options(settings := settings_of(config))
    (card,) = cards([model], options)
    wanted: tuple[Any, ...] = {"auto": (), "both": ("u8s8", "s8s8")}.get(flavour, (flavour,))
    began = time.monotonic()
    wishes = Wishes(wanted, None if ranges == "auto" else ranges, samples, seconds(budget), detector)
    with told(card.name) as tell, Calibrator(card, options, wishes, tell) as calibrator, closing(
        pictures(frames, settings, seconds(watch), tell)
    ) as taken:  # fmt: skip
        outcomes = calibrator.run(taken, labels)
    took_s = time.monotonic() - began
    if as_json:
        made = [_record(outcome) for outcome in outcomes]
        print(json.dumps({"model": card.model_id, "seconds": round(took_s, 1), "calibrations": made}, indent=2))
    else:
        _tell(outcomes, model, took_s)


def _tell(outcomes: Sequence[Outcome], model: str, took_s: float) -> None:
    for outcome in outcomes:
        _print(outcome)
    print(f"It took {took_s:.0f} s.")
    print(f"Next: `almena tune {model}` compares it with the other precisions; `engines.precision: auto` takes int8 from the next start.")


@contextmanager
def told(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each thing that is done."""
    columns = TextColumn(title), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield tell


def pictures(place: str, settings: Settings, watch_s: float, tell: Callable[[str, int, int], None]) -> Generator[Image, None, None]:
    """The frames of a folder, a video, a camera or a stream of the settings. Raises AlmenaError, SettingsError."""
    if place and Path(place).is_dir():
        yield from _folder(Path(place), tell)
        return
    source = _source(place, settings)
    source.open()
    try:
        ends, count = time.monotonic() + watch_s, 0
        while source.finite or time.monotonic() < ends:
            frame = source.read()
            if frame is None:
                return
            count += 1
            tell("frames", count, count)
            yield frame.image
    finally:
        source.close()


def _folder(folder: Path, tell: Callable[[str, int, int], None]) -> Iterator[Image]:
    """Its pictures and those of its sub-folders, in the order of their names; those that cannot be read are told and left out."""
    from agent.vision.pictures import PictureError, decode
    from agent.vision.sources.folder import SUFFIXES

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise AlmenaError(f"{folder}: no picture was found there or in its sub-folders ({', '.join(sorted(SUFFIXES))})")
    unreadable = 0
    for done, path in enumerate(files, 1):
        try:
            picture = decode(path.read_bytes())
        except (PictureError, OSError) as error:
            unreadable += 1
            log.warning("%s is left out: %s", path, error)
            continue
        tell("frames", done, len(files))
        yield picture
    if unreadable == len(files):
        raise AlmenaError(f"{folder}: none of its {len(files)} pictures can be read; the first: {files[0].name}")


def _source(place: str, settings: Settings) -> Any:
    """A source that is not opened yet."""
    from agent.registry import SOURCES, resolve

    for stream in settings.streams:
        if stream.name == place:
            return resolve(SOURCES, stream.source.type, "source")(stream.source, place)
    scheme = place.partition("://")[0] if "://" in place else ""
    if scheme in ("rtsp", "rtsps"):
        kind, values = "rtsp", {"url": place}
    elif scheme in ("http", "https"):
        kind, values = "mjpeg", {"url": place}
    elif place.startswith("/dev/"):
        kind, values = "v4l2", {"device": place}
    elif Path(place).is_file():
        kind, values = "video", {"path": place, "pace": "fast"}
    else:
        known = ", ".join(stream.name for stream in settings.streams) or "none"
        raise SettingsError(f"{place or '(nothing)'}: no folder, no file, no address, and no stream of the settings (there: {known})")
    plugin = resolve(SOURCES, kind, "source")
    try:
        return plugin(plugin.Config.model_validate(values), "calibration")
    except ValidationError as error:
        raise SettingsError(f"{place}: {error.errors()[0]['msg']}") from error


def _record(outcome: Outcome) -> dict[str, Any]:
    return {
        **outcome.calibration.model_dump(mode="json"),
        "cut_short": outcome.cut_short,
        "refused": [{"float_nodes": count, "why": why} for count, why in outcome.tried],
        "backends": {
            name: {
                "parity": verdict.parity.model_dump(mode="json"),
                "portraits": verdict.portraits.model_dump(mode="json") if verdict.portraits else None,
                "accuracy": [one.model_dump(mode="json") for one in verdict.accuracy],
                "per_second": {"fp32": round(speed.first, 1), "int8": round(speed.second, 1), "ratio": round(speed.ratio, 3)},
            }
            for name, verdict in outcome.verdicts.items()
            for speed in (outcome.speed[name],)
        },
    }


def _print(outcome: Outcome) -> None:
    made, console = outcome.calibration, wide_console()
    console.print(
        f"{made.model} in INT8, {made.flavour}: {made.ranges} ranges of {made.frames} samples (a quarter held back for the verdict);"
        f" {made.sqnr_db:.1f} dB over the quantisation noise"
    )
    table = Table("backend", "against FP32", "FP32 per second", "INT8 per second", "times", box=None)
    for name, verdict in outcome.verdicts.items():
        speed = outcome.speed[name]
        metrics = [f"{one.metric} {one.candidate:.4f}, FP32 {one.reference:.4f}" for one in verdict.accuracy]
        figures = "; ".join([*metrics, shown(verdict.parity)])
        table.add_row(name, figures, f"{speed.first:.1f}", f"{speed.second:.1f}", f"{speed.ratio:.2f}")
    console.print(table)
    for count, why in outcome.tried:
        console.print(f"refused with {count} nodes in float: {why}", style="dim")
    if made.refusals:
        console.print(
            f"note: what was held back refused {made.refusals} times before; since then it took part in the choice", style="yellow"
        )
    if outcome.cut_short:
        console.print(f"note: {outcome.cut_short}", style="yellow")
    total = len(made.sensitivity)
    console.print(f"in float: {', '.join(made.float_nodes) or 'nothing'} (of {total} nodes measured)")
    first = ", ".join(f"{node} {share:.1%}" for node, share in list(made.sensitivity.items())[:SHOWN])
    console.print(f"most sensitive, by the share of the noise that each makes alone: {first}", style="dim")


def shown(parity: Parity) -> str:
    """The figures of a comparison as words."""
    parts = {
        "scores within": parity.score,
        "boxes overlap": parity.overlap,
        "on average": parity.mean_overlap,
        "templates within": parity.distance,
        "probabilities within": parity.probability,
        "dB over the noise": parity.sqnr_db,
        "same answers": parity.agreement,
    }
    return ", ".join(f"{what} {value:.3f}" for what, value in parts.items() if value is not None)
