"""`almena events`: the local history, with or without a broker."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from agent import settings as settings_module
from agent.envelopes import COLUMNS, number, row
from agent.errors import AlmenaError
from agent.moments import moment_of
from agent.outbox import Outbox
from agent.sentences import sentence

app = typer.Typer(add_completion=False)

LANES = {"audit": "audit", "clock": "clock", "loss": "loss", "telemetry": "telemetry"}
"""Kinds that are kept in a lane of their own."""
PAGE = 500


@app.command()
def events(
    config: Annotated[Path, typer.Option("--config", "-c", help="The settings file.")] = Path("almena.yaml"),
    since: Annotated[
        str | None, typer.Option(help="From then on: 30m, 2h, 7d, or a date and time (ISO 8601; local unless it says).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Up to then, in the same forms.")] = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="Only this kind: face, stream …; audit, clock, loss, telemetry are shown only when asked for."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="The newest so many.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing new ones until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Comma-separated values with a head line.")] = False,
) -> None:
    """Print the events of the local history, oldest first."""
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv")
    if follow and kind == "loss":
        raise typer.BadParameter("losses are declared together, later: ask for them without --follow")
    now = time.time()
    lane = LANES.get(kind or "", "event")
    wanted: dict[str, Any] = {"since": moment_of(since, now), "until": moment_of(until, now), "stream": stream, "kind": kind, "lane": lane}
    settings = settings_module.load(config)
    if not settings.outbox_dir.is_dir():
        raise AlmenaError(f"there is no history in {settings.outbox_dir} yet; start the agent with `almena run`")
    show = _writer(as_json, as_csv)
    with Outbox.open(settings.outbox_dir, settings.device.name, settings.outbox) as outbox:
        if lane == "loss":
            outbox.tidy(ages=False)  # what an agent that has stopped did not come to declare
        newest = outbox.stats()[lane]["seq"]
        found = outbox.history(**wanted, limit=limit, newest_first=True)
        if not found and not follow:
            typer.echo("almena: the history holds nothing of that", err=True)
        for envelope in reversed(found):
            show(envelope)
            newest = max(newest, number(envelope["id"]))
        with suppress(KeyboardInterrupt):
            while follow:
                outbox.wait(1.0)
                for envelope in outbox.history(**wanted, limit=PAGE, after_seq=newest):
                    show(envelope)
                    newest = number(envelope["id"])


def _writer(as_json: bool, as_csv: bool) -> Callable[[dict[str, Any]], None]:
    if as_json:
        return lambda envelope: print(json.dumps(envelope, ensure_ascii=False), flush=True)
    if not as_csv:
        return lambda envelope: print(sentence(envelope), flush=True)
    table = csv.writer(sys.stdout)
    table.writerow(COLUMNS)

    def write(envelope: dict[str, Any]) -> None:
        table.writerow(row(envelope))
        sys.stdout.flush()

    return write
