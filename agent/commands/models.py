"""`almena models`: what models there are, what is fetched, and what was built of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from agent.commands.table import print_table
from agent.commands.tune import settings_of
from agent.errors import UsageError
from engines import fetch as fetching
from engines.card import ModelCard, card, names
from engines.registry import unknown
from engines.store import EngineStore, Passport
from engines.tuning import kept

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Model cards, fetched files and built engines.")

DEFAULTS = ("centerface", "dlib-resnet", "astronaut", "grace-hopper")
"""The default face models and the portraits that parity checks and the demo use."""

Config = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file; default: almena.yaml if there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def progress_bars() -> Iterator[fetching.Progress]:
    """A callback for `EngineOptions.progress`, drawn as bars on stderr."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=False) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield show


def _row(entry: ModelCard, directory: Path) -> dict[str, Any]:
    return {
        "name": entry.name,
        "task": entry.task,
        "version": entry.version,
        "licence": entry.licence,
        "from": entry.source.kind,
        "model": entry.model_id,
        "fetched": (directory / entry.filename).exists(),
    }


@app.command("list")
def list_models(config: Config = None, as_json: AsJson = False) -> None:
    """List the model cards."""
    directory = settings_of(config).models_dir
    rows = [_row(card(name), directory) for name in names()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    heads = ("name", "task", "version", "licence", "from")
    told = ((*(row[key] for key in heads), "yes" if row["fetched"] else "no") for row in rows)
    print_table((*heads, "fetched"), told, "There are no model cards.")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A model card's name.")], as_json: AsJson = False) -> None:
    """Show a card: source, hash, inputs, thresholds, licence, training data."""
    content = card(name).model_dump(mode="json")
    typer.echo(json.dumps(content, indent=2) if as_json else yaml.safe_dump(content, sort_keys=False, width=120).rstrip())


@app.command()
def fetch(
    wanted: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Model cards or assets.")] = None,
    all_default: Annotated[bool, typer.Option("--all-default", help="The default face models and the two portraits.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Obtain model files; those that are there are checked against their hashes."""
    chosen = [*(wanted or ()), *(DEFAULTS if all_default else ())]
    if not chosen:
        raise UsageError("name at least one model, or give --all-default")
    known = [*names(), *fetching.assets()]
    done = {}
    directory = settings_of(config).models_dir
    for name in chosen:
        if name not in known:
            raise unknown(name, known, "model or asset")
    with progress_bars() as progress:
        for name in dict.fromkeys(chosen):
            obtain = fetching.ensure_asset if name in fetching.assets() else _ensure_model
            done[name] = str(obtain(name, directory, progress))
    typer.echo(json.dumps(done, indent=2) if as_json else "\n".join(f"{name}: {path}" for name, path in done.items()))


def _ensure_model(name: str, directory: Path, progress: fetching.Progress) -> Path:
    return fetching.ensure(card(name), directory, progress)


@app.command()
def passports(config: Config = None, as_json: AsJson = False) -> None:
    """List built engines: precision, parity with FP32, speed, memory; and which of them a tuning chose."""
    directory = settings_of(config).engines_dir
    found = [(passport, _tuned_for(passport, directory)) for passport in EngineStore(directory).passports()]
    if as_json:
        typer.echo(json.dumps([{**passport.model_dump(mode="json"), "tuned_for": goals} for passport, goals in found], indent=2))
        return
    heads = ("model", "shape", "backend", "precision", "p50 ms", "p99 ms", "per second", "memory MB", "tuned for", "built")
    rows = []
    for passport, goals in found:
        speed, identity = passport.speed, passport.identity
        shape = "x".join(map(str, identity.shape))
        figures = (f"{value:g}" for value in (speed.p50_ms, speed.p99_ms, speed.per_second, passport.memory_mb))
        rows.append((identity.model, shape, identity.backend, passport.precision, *figures, ", ".join(goals), passport.built_at))
    print_table(heads, rows, "No engine was built here yet; the first start of a stream builds those that it needs.")


def _tuned_for(passport: Passport, directory: Path) -> list[str]:
    """The goals for which this way of running the model was found best here."""
    identity = passport.identity
    way = {name: getattr(identity, name) for name in ("backend", "unit", "policy", "threads", "streams")} | {
        "precision": passport.precision
    }
    tunings = (tuning for tuning in kept(directory) if tuning.model == identity.model)
    return [tuning.goal for tuning in tunings if tuning.choice.model_dump(exclude={"batch"}) == way]
