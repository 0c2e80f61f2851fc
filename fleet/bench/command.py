"""`almena bench fleet`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)


@app.callback()
def bench() -> None:
    """Measure the hub."""


@app.command()
def fleet(
    store: Annotated[str, typer.Option(help="Database to fill: postgresql://…; default: a new SQLite file in the temporary folder.")] = "",
    events: Annotated[int, typer.Option(min=1000, max=1_000_000, help="Events that wait at the broker in each run.")] = 20_000,
    repeats: Annotated[int, typer.Option(min=1, max=20, help="Bare subscriber and hub take turns so many times; medians count.")] = 3,
    pace: Annotated[float, typer.Option(min=1, max=20_000, help="Events a second for the latencies.")] = 1000.0,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long these are sent.")] = 10.0,
    growth: Annotated[bool, typer.Option("--growth", help="Instead: what it costs from 10 to 10,000 devices, on SQLite.")] = False,
    plot: Annotated[Path | None, typer.Option(help="With --growth: draw it into this file, .svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Events that the hub stores a second, against a bare subscriber of the same broker; losses and latencies."""
    from agent.commands.needed import can_hold
    from fleet.bench import growth as growing
    from fleet.bench.run import measure

    can_hold(plot)
    if growth:
        with tempfile.TemporaryDirectory(prefix="almena-bench-") as folder:
            rows = growing.measure_growth(Path(folder), events)
        if plot:
            plot.write_text(growing.plot(rows), encoding="utf-8")
        print(json.dumps(rows, indent=2) if as_json else growing.table(rows))
        return
    with tempfile.TemporaryDirectory(prefix="almena-bench-") as folder:
        result = measure(Path(folder), store or f"sqlite:///{folder}/hub.sqlite", events, repeats, pace, seconds)
    print(json.dumps(result, indent=2) if as_json else _table(result))


@app.command()
def console(
    store: Annotated[str, typer.Option(help="Database; it is filled if it is empty. Default: a new SQLite file.")] = "",
    devices: Annotated[int, typer.Option(min=60, max=1_000_000, help="Devices in it.")] = 10_000,
    events: Annotated[int, typer.Option(min=1000, max=1_000_000_000, help="Events in it.")] = 10_000_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """How long each question of the console takes with a large store, through the API."""
    from fleet.bench.questions import measure_questions

    with tempfile.TemporaryDirectory(prefix="almena-bench-") as folder:
        result = measure_questions(store or f"sqlite:///{folder}/hub.sqlite", devices, events)
    shown = "\n".join(f"{what:<34} {seconds:7.3f} s" for what, seconds in result["seconds"].items())
    print(json.dumps(result, indent=2) if as_json else shown)


def _table(result: dict[str, Any]) -> str:
    rows = {
        "stored per second": result["stored_per_second"],
        "bare subscriber per second": result["bare_subscriber_per_second"],
        "ratio": result["ratio"],
        "lost": result["lost"],
        f"latency at {result['paced_per_second']:g}/s": ", ".join(f"p{p} {result[f'latency_p{p}_ms']} ms" for p in (50, 95, 99)),
        "memory of the ingest": f"{result['ingest_memory_mb']} MB, grown by {result['ingest_memory_grown_mb']} MB",
    }
    return "\n".join(f"{name:<28} {value}" for name, value in rows.items())
