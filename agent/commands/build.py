"""`almena build`: a model becomes engines of this device, with passports."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from agent.commands.tune import is_bare, settings_of

if TYPE_CHECKING:
    from engines.card import ModelCard
    from engines.model import EngineOptions
    from engines.parity import Parity
    from engines.stages import Stage, Step
    from engines.store import Passport

app = typer.Typer(add_completion=False)

STEPS: dict[Step, str] = {
    "fetch": "fetching", "convert": "converting", "build": "building", "compare": "comparing with FP32", "measure": "measuring",
}  # fmt: skip


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="A card, a card file (.yaml), or a bare model: .onnx, .tflite, .keras, .xml, a SavedModel.")],
    backend: Annotated[str, typer.Option(help="A runtime; default: what the tuner found, or the first that reads the model.")] = "auto",
    unit: Annotated[str, typer.Option(help="What of it computes: cpu, gpu, npu …")] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16", "int8"], typer.Option(help="`auto`: the fastest that is accurate.")
    ] = "auto",
    shape: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT of the input; default: the card's first.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, max=256, help="Pictures in a call; default: those that the agent uses.")] = None,
    policy: Annotated[Literal["latency", "throughput", "efficiency"] | None, typer.Option(help="Default: engines.policy.")] = None,
    write_card: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a bare model: keep the provisional card, to be completed.")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file; default: almena.yaml if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the passports as JSON.")] = False,
) -> None:
    """Fetch, convert, build, compare with FP32 and measure a model on this device; what is done already is not done again.

    Ends with 1 where the model or this device does not allow it, with 2 where the question is wrong.

    Examples: `almena build centerface`, `almena build parts.onnx --shape 224x224 --write-card parts.yaml`
    """
    from agent.vision.face_kit import engine_options

    size = size_of(shape)
    settings = settings_of(config)
    asked = replace(engine_options(settings), policy=policy or settings.engines.policy)
    if (backend, unit, precision) != ("auto", "auto", "auto"):
        asked = replace(asked, backend=backend, unit=unit, precision=precision)
    with steps(model) as (stage, show):
        options = replace(asked, stage=stage, progress=show)
        passports = built(the_card(model, size, options, write_card), options, batch)
    if as_json:
        typer.echo(json.dumps([passport.model_dump(mode="json") for passport in passports], indent=2))
        return
    for passport in passports:
        print_passport(passport)


def the_card(model: str, size: tuple[int, int] | None, options: EngineOptions, write_card: Path | None) -> ModelCard:
    """The card of that name or file, for that input size alone; of a bare model file a provisional one, which is told."""
    from calibration.zoo import cards_of

    if is_bare(model):
        return _provisional(Path(model), size, write_card)
    if write_card is not None:
        raise typer.BadParameter(f"{model} has a card", param_hint="--write-card")
    (card,) = cards_of([model], options.models_dir, options.progress)
    if size is None:
        return card
    return card.model_copy(update={"input": card.input.model_copy(update={"sizes": (size,)})})


def _provisional(path: Path, size: tuple[int, int] | None, write_card: Path | None) -> ModelCard:
    from engines.card import card
    from engines.files import replacing
    from engines.provisional import provisional

    if write_card is not None and write_card.exists():
        raise typer.BadParameter(f"{write_card} exists and is not written over", param_hint="--write-card")
    found = provisional(path, size)
    typer.echo(f"{path.name} has no card. Assumed, and to be checked:", err=True)
    for line in found.assumed:
        typer.echo(f"  - {line}", err=True)
    if write_card is None:
        typer.echo("  `--write-card FILE` keeps this as a card; complete it and build that.", err=True)
        return found.card
    with replacing(write_card) as temporary:
        temporary.write_text(found.as_yaml(), encoding="utf-8")
    typer.echo(f"  {write_card} has it as a card; complete it and build that.", err=True)
    return card(str(write_card))


def built(card: ModelCard, options: EngineOptions, batch: int | None) -> list[Passport]:
    """Passports of the engines that the agent would use, or of the one for `batch` pictures.

    Raises EngineError, also before anything is begun where memory or disk do not suffice.
    """
    from engines.fetch import ensure
    from engines.files import size as bytes_of
    from engines.model import BATCH, Workshop, judge_of
    from engines.room import require_disk

    options.stage("fetch")
    if card.source.kind == "local" and (own := Path(card.source.path).expanduser()).exists():
        require_disk(card.name, bytes_of(own), options.models_dir)
    ensure(card, options.models_dir, options.progress)
    workshop = Workshop(card, options)
    size = card.input.sizes[0]
    batches = (batch,) if batch else (1, BATCH) if card.task == "face-embedding" else (1,)
    workshop.require_room(size, max(batches))
    passports = []
    for pictures in batches:
        engine, passport = workshop.open(size, judge_of(card, size, options.models_dir), pictures)
        engine.close()
        passports.append(passport)
    return passports


def size_of(shape: str | None) -> tuple[int, int] | None:
    """Of 640x384: width, height."""
    if shape is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", shape.lower())
    if found is None:
        raise typer.BadParameter(f"{shape!r} is no WIDTHxHEIGHT, as 640x384 is", param_hint="--shape")
    return int(found[1]), int(found[2])


@contextmanager
def steps(title: str) -> Iterator[tuple[Stage, Callable[[str, int, int | None], None]]]:
    """What to call when a step begins and while files are fetched, told on stderr: a line for each step, on a terminal with its seconds."""
    columns = SpinnerColumn(finished_text="·"), TextColumn("{task.description}"), TimeElapsedColumn()
    console, name = Console(stderr=True), Path(title).name
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        running: list[TaskID] = []

        def stage(step: Step) -> None:
            for task in running:
                bars.update(task, total=1, completed=1)
            running[:] = [bars.add_task(f"{name}: {STEPS[step]}", total=None)]
            if not console.is_terminal:
                console.print(f"{name}: {STEPS[step]}", soft_wrap=True, highlight=False)

        def show(what: str, done: int, total: int | None) -> None:
            if running:
                size = f"{decimal(done)} of {decimal(total)}" if total else decimal(done)
                bars.update(running[-1], description=f"{what}: {STEPS['fetch']}, {size}")

        yield stage, show
        for task in running:
            bars.update(task, total=1, completed=1)


def print_passport(passport: Passport) -> None:
    """As a table of two columns."""
    identity, speed, parity = passport.identity, passport.speed, passport.parity
    batch, height, width = identity.shape
    rows = {
        "model": identity.model,
        "input": f"{width}x{height}, batch {batch}",
        "runs on": f"{identity.backend} {identity.backend_version}, {identity.unit}: {identity.device}",
        "precision": f"{passport.precision} (asked for: {identity.precision})",
        "built for": f"{identity.policy}, {identity.threads or 'all'} threads",
        "against FP32": _against(parity),
        **{f"refused: {precision}": refused.why for precision, refused in passport.refused.items()},
        "latency": f"{speed.p50_ms:g} ms (median), {speed.p90_ms:g} ms (90 %), {speed.p99_ms:g} ms (99 %)",
        "throughput": f"{speed.per_second:g} pictures/s with {speed.parallel} calls at once",
        "memory": f"{passport.memory_mb:g} MB",
        "built": f"{passport.built_at}, in {passport.build_s:g} s",
        "file": passport.file,
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    Console(soft_wrap=True, highlight=False).print(table)


def _against(parity: Parity | None) -> str:
    if parity is None:
        return "it is FP32"
    return parity.note or f"{_figures(parity.model_dump())} on {parity.count} pictures"


def _figures(parity: dict[str, object]) -> str:
    names = ("score", "overlap", "distance", "probability", "agreement")
    return ", ".join(f"{name} {parity[name]:.4f}" for name in names if parity[name] is not None)
