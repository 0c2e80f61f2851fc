"""`almena studies`: radiographs that came to nothing, and answers that no PACS has taken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from agent import settings as settings_module
from agent.commands.table import print_table
from agent.errors import UnknownError, UsageError
from agent.studies import StudyFailure, StudyFolders

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Radiographs that came to nothing, and answers that no PACS has taken.")

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file.")]
Items = Annotated[list[str] | None, typer.Argument(help="As `almena studies list` prints them.")]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
CONFIG = Path("almena.yaml")


@app.command(name="list")
def listed(config: Config = CONFIG, as_json: Json = False) -> None:
    """What could not be used (failed), and answers that were given up (dead), with the reasons; nothing of a patient."""
    with _folders(config) as folders:
        found = [(name, one) for name in ("failed", "dead") for one in folders.failures(getattr(folders, name))]
    if as_json:
        print(json.dumps([{"folder": name, **asdict(one)} for name, one in found]))
        return
    rows = [(one.item, name, f"{datetime.fromtimestamp(one.failed_at):%Y-%m-%d %H:%M}", one.reason, one.detail) for name, one in found]
    print_table(("item", "folder", "since", "reason", "detail"), rows, "nothing failed, and every answer was taken or waits")


@app.command()
def retry(items: Items = None, every: All = False, config: Config = CONFIG, as_json: Json = False) -> None:
    """Send answers that were given up once more: the DICOM process takes them up within seconds."""
    with _folders(config) as folders:
        chosen = _chosen(folders, items, every)
        for one in chosen:
            folders.reopen(one.item)
    _tell(chosen, "answers are sent again", as_json)


@app.command()
def forget(
    items: Items = None,
    every: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: Config = CONFIG,
    as_json: Json = False,
) -> None:
    """Delete radiographs whose answers were given up. They are kept until then, however long that is."""
    with _folders(config) as folders:
        chosen = _chosen(folders, items, every)
        if not yes:
            typer.confirm(f"Delete {len(chosen)} radiographs, and the answers that no PACS has?", abort=True, err=True)
        for one in chosen:
            folders.forget(one.item)
    _tell(chosen, "radiographs are deleted", as_json)


def _tell(chosen: list[StudyFailure], what: str, as_json: bool) -> None:
    print(json.dumps([one.item for one in chosen]) if as_json else f"{len(chosen)} {what}")


@contextmanager
def _folders(config: Path) -> Iterator[StudyFolders]:
    settings = settings_module.load(config)
    if settings.dicom is None:
        raise UsageError(f"{config} has no section `dicom`")
    yield StudyFolders(settings.state_dir, settings.dicom.key_file)


def _chosen(folders: StudyFolders, items: list[str] | None, every: bool) -> list[StudyFailure]:
    if every == bool(items):
        raise UsageError("name items, or give --all: `almena studies list` prints them")
    dead = {one.item: one for one in folders.failures(folders.dead)}
    if unknown := [item for item in items or () if item not in dead]:
        raise UnknownError(f"no answer of {', '.join(unknown)} was given up: `almena studies list` prints those that were")
    return [dead[item] for item in items or dead]
