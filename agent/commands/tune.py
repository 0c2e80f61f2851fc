"""`almena tune`: measure every way of running a model on this device, and keep the best."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from agent.remote import effective
from agent.settings import Settings
from agent.supervisor import end_with_parent

if TYPE_CHECKING:
    from calibration.power import PowerMeter
    from calibration.tuner import Row, Tuned
    from engines.card import ModelCard
    from engines.model import EngineOptions
    from engines.tuning import Goal

app = typer.Typer(add_completion=False)

DEFAULT = Path("almena.yaml")
WIDE = 180
NICE = 10
"""Low enough to disturb no stream, high enough to get on beside streams that take the whole device."""
SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a tuning is asked for."""

    goal: Goal
    budget_s: float
    batch: int | None
    backends: tuple[str, ...]


@app.command()
def tune(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="Cards, card files, or models of the bench; default: those of the settings' streams."),
    ] = None,
    policy: Annotated[
        Literal["latency", "throughput", "efficiency"] | None,
        typer.Option(help="What is best: milliseconds of one picture, pictures a second, or joules of a picture; default: engines.policy."),
    ] = None,
    budget: Annotated[str, typer.Option(help="Time for each model: 60s, 5m.")] = "60s",
    batch: Annotated[int | None, typer.Option(min=1, max=256, help="Pictures in a call; default: what suits the model's task.")] = None,
    backends: Annotated[str | None, typer.Option(help="Only these, comma-separated.")] = None,
    if_needed: Annotated[
        bool, typer.Option("--if-needed", help="Only models without a tuning that still counts on this device; for a timer.")
    ] = False,
    background: Annotated[
        bool, typer.Option("--background", help="At the lowest priority, and only as long as the process that began it; for the agent.")
    ] = False,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file; default: almena.yaml if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome and every candidate as JSON.")] = False,
) -> None:
    """Find the fastest, or the most frugal, way to run models on this device. The agent uses it from its next start on.

    Candidates that are less accurate than the model's card allows are refused; each that was not tried is listed with the reason.
    Ends with 1 where nothing here can run a model, with 2 where the question is wrong.

    Examples: `almena tune`, `almena tune resnet-50 --policy throughput --batch 8 --budget 2m`
    """
    from agent.vision.face_kit import chosen_models, engine_options

    if background:
        _step_back()
    settings = settings_of(config)
    options = engine_options(settings)
    wanted = Wanted(policy or settings.engines.policy, seconds(budget), batch, backend_names(backends))
    found = []
    for card in cards(models or list(chosen_models(settings)), options):
        if if_needed and _counts(card, options, wanted.goal):
            typer.echo(f"{card.name}: its tuning for {wanted.goal} still counts", err=True)
            continue
        found.append(_one(card, options, wanted))
        if not as_json:
            _print(found[-1])
    if as_json:
        print(json.dumps({"tunings": [_record(tuned) for tuned in found]}, indent=2))


def _one(card: ModelCard, options: EngineOptions, wanted: Wanted) -> Tuned:
    from calibration.tuner import Tuner

    meter = _meter() if wanted.goal == "efficiency" else None
    with told_progress(f"{card.name}, {wanted.goal}") as told:
        return Tuner(card, options, wanted.goal, wanted.budget_s, wanted.batch, wanted.backends, meter, told).run()


def _counts(card: ModelCard, options: EngineOptions, goal: Goal) -> bool:
    """Whether there is a complete tuning, made for this device, runtimes, drivers, power mode and model."""
    from engines.model import recipe
    from engines.tuning import standing

    tuning, counts = standing(card, recipe(card), options.engines_dir, goal)
    return counts and tuning is not None and tuning.complete


def _step_back() -> None:
    """Behind whatever else runs, and gone when the process that began this one is."""
    end_with_parent()
    os.nice(NICE)


def _meter() -> PowerMeter:
    from calibration.power import power_meter

    meter = power_meter()
    meter.rest()
    return meter


def cards(names: list[str], options: EngineOptions) -> list[ModelCard]:
    """Of catalog, bench or files; made or fetched with bars on stderr."""
    from agent.commands.models import progress_bars
    from calibration.zoo import cards_of
    from engines.fetch import ensure

    if bare := [name for name in names if is_bare(name)]:
        raise typer.BadParameter(
            f"{bare[0]} is a bare file: `almena build {bare[0]} --write-card FILE.yaml` makes a card of it; complete that and name it here"
        )
    with progress_bars() as progress:
        found = cards_of(names, options.models_dir, progress)
        for card in found:
            ensure(card, options.models_dir, progress)
    return found


def is_bare(model: str) -> bool:
    """Whether that is a model's file or folder, not the name of a card or a card's file."""
    from calibration.zoo import SPECS
    from engines.card import names

    if model.endswith((".yaml", ".yml")) or model in names() or model in SPECS:
        return False
    return "/" in model or Path(model).exists() or Path(model).suffix != ""


def settings_of(config: Path | None) -> Settings:
    """Those of the file, of almena.yaml where there is one, else the built-in ones with the demo's folders."""
    from agent.home import default_folder

    if config is None and not DEFAULT.is_file():
        folder = default_folder()
        return Settings.model_validate({"state_dir": folder / "state", "engines": {"models_dir": folder / "models"}})
    return effective(config or DEFAULT).settings


def seconds(text: str) -> float:
    """Of 90, 90s, 2m or 1h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if found is None or float(found[1]) <= 0:
        raise typer.BadParameter(f"{text!r} is no time; write 60s, 5m or 1h", param_hint="--budget")
    return float(found[1]) * SECONDS[found[2]]


def backend_names(text: str | None) -> tuple[str, ...]:
    """All of the registry, or those named."""
    from engines.registry import BACKENDS

    names = tuple(part.strip() for part in text.split(",")) if text else tuple(BACKENDS)
    if wrong := [name for name in names if name not in BACKENDS]:
        raise typer.BadParameter(f"there is no {', '.join(wrong)}; there are {', '.join(BACKENDS)}", param_hint="--backends")
    return names


@contextmanager
def told_progress(title: str) -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr: what is being done, and how much of the time is used up."""
    columns = TextColumn(title), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda what, share: bars.update(task, description=what, completed=min(share, 1.0))


def wide_console() -> Console:
    """For tables and long lines: a file or pipe gets them whole, and nothing is read as markup."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDE
    return console


def _record(tuned: Tuned) -> dict[str, Any]:
    goal = tuned.tuning.goal
    return {
        **tuned.tuning.model_dump(mode="json"),
        "seconds": round(tuned.seconds, 1),
        "notes": list(tuned.notes),
        "candidates": [row.as_json(goal) for row in tuned.rows],
    }


def _print(tuned: Tuned) -> None:
    from calibration.tuner import UNITS, shown

    goal, console = tuned.tuning.goal, wide_console()
    table = Table("backend", "unit", "precision", "built for", "threads", "streams", "batch", UNITS[goal], "relative", box=None)
    for row in sorted((row for row in tuned.rows if row.cost is not None), key=lambda one: one.relative or 0.0):
        choice = row.way
        way = (choice.backend, choice.unit, choice.precision, choice.policy, choice.threads or "", choice.streams or "", choice.batch)
        ratio = f"{row.relative:.2f}" if row.relative is not None else ""
        table.add_row(*map(str, way), shown(goal, row.cost), ratio, style="bold" if row.outcome == "chosen" else None)
    console.print(table)
    told = sorted((row for row in tuned.rows if row.why), key=_fate)
    for (outcome, why), rows in groupby(told, key=_fate):
        left = list(rows)
        ways = "; ".join(row.way.backend if row.way.unit == "any" else str(row.way) for row in left)
        console.print(f"{outcome}: {ways}: {why}", style="dim")
    for note in tuned.notes:
        console.print(f"note: {note}", style="yellow")
    console.print(f"{tuned.tuning.model} runs on {tuned.tuning.choice}: {tuned.tuning.why}")


def _fate(row: Row) -> tuple[str, str]:
    return row.outcome, row.why
