"""`almena bench matrix`: the comparison table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.commands.needed import can_draw, can_hold
from agent.commands.tune import backend_names, cards, settings_of, told_progress, wide_console
from agent.commands.tune import seconds as seconds_of
from agent.errors import AlmenaError

MODELS = ("centerface", "dlib-resnet", "grey-cnn", "resnet-50", "vgg-16", "mobilenet-v2", "efficientnet-b0")


def matrix(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help=f"Cards, card files, or models of the bench; default: {' '.join(MODELS)}."),
    ] = None,
    backends: Annotated[str | None, typer.Option(help="Only these, comma-separated; default: all.")] = None,
    precisions: Annotated[str, typer.Option(help="Comma-separated.")] = "fp32,bf16,fp16,int8",
    batches: Annotated[str, typer.Option(help="Comma-separated.")] = "1,8",
    tuned: Annotated[bool, typer.Option("--tuned", help="With the tuned engines, as a share of the best choice by hand.")] = False,
    rounds: Annotated[int, typer.Option(min=1, max=50, help="All cells of a model take turns so many times; medians count.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.05, help="Of each measurement.")] = 0.5,
    budget: Annotated[str, typer.Option(help="Time for each model: 60s, 5m. What it does not suffice for is listed.")] = "5m",
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Settings file; default: almena.yaml if there is one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the rows to this file, too.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw the rows into this file, too: .png or .svg.")] = None,
) -> None:
    """Speed, accuracy, memory, file size, build time and energy by backend, precision and batch.

    Latency is that of an engine built for latency, throughput that of one built for throughput.

    Example: `almena bench matrix centerface dlib-resnet --batches 1,4 --csv table.csv --plot table.svg`
    """
    from agent.vision.face_kit import engine_options
    from calibration.matrix import Matrix, Plan
    from calibration.plot import plot
    from calibration.power import power_meter

    can_hold(csv_file)
    can_draw(plot_file)
    options = engine_options(settings_of(config))
    wanted = backend_names(backends), tuple(_parts(precisions)), numbers(batches, "--batches")
    plan = Plan(*wanted, rounds, seconds, tuned, seconds_of(budget))
    chosen = cards(models or list(MODELS), options)
    with told_progress("matrix") as told:
        found = Matrix(chosen, options, plan, power_meter(), told).run()
    _require_rows(found, precisions)
    if csv_file is not None:
        write_csv(found["rows"], csv_file)
    if plot_file is not None:
        plot(found["rows"], plot_file)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)


def _require_rows(found: dict[str, Any], precisions: str) -> None:
    if not found["rows"]:
        why = [_lacking(one) for one in found["missing"]] or [f"not measured: no backend that was asked for computes at {precisions}"]
        raise AlmenaError("\n".join(["nothing could be measured", *why]))


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """One line for each row, under a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _parts(text: str) -> list[str]:
    known = ("fp32", "bf16", "fp16", "int8")
    parts = [part.strip() for part in text.split(",")]
    if wrong := [part for part in parts if part not in known]:
        raise typer.BadParameter(f"there is no {', '.join(wrong)}; there are {', '.join(known)}", param_hint="--precisions")
    return parts


def numbers(text: str, option: str, least: int = 1) -> tuple[int, ...]:
    """Those of an option, comma-separated. Raises BadParameter."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (0,)
    if min(found) < least:
        raise typer.BadParameter(f"{text!r} must be numbers from {least} on, such as {least},{8 * least}", param_hint=option)
    return found


def _lacking(one: dict[str, str]) -> str:
    return f"not measured: {one['model']} on {one['backend']} at {one['precision']}: {one['why']}"


def _print(found: dict[str, Any]) -> None:
    from rich.table import Table

    console = wide_console()
    heads = ("model", "backend", "unit", "precision", "batch", "p50 ms", "p99 ms", "images/s", "accuracy", "MB", "file MB", "build s", "mJ")
    table = Table(*heads, box=None)
    for row in sorted(found["rows"], key=lambda row: (row["model"], row["batch"], -(row["throughput_per_second"] or 0))):
        energy = row["joules_per_inference"]
        figures = [row[name] for name in ("latency_p50_ms", "latency_p99_ms", "throughput_per_second", "accuracy", "memory_mb", "file_mb")]
        texts = [
            f"{value:.4g}" if value is not None else "" for value in (*figures, row["build_s"], None if energy is None else 1e3 * energy)
        ]
        precision = f"{row['precision']} (tuned)" if row["tuned"] else row["precision"]
        table.add_row(row["model"], row["backend"], row["unit"], precision, str(row["batch"]), *texts)
    console.print(table)
    for name, meaning in {(row["model"], row["accuracy_is"]): None for row in found["rows"] if row["accuracy_is"] != "the reference"}:
        console.print(f"accuracy of {name}: {meaning}", style="dim")
    for one in found["missing"]:
        console.print(_lacking(one), style="dim")
    for note in found["notes"]:
        console.print(f"note: {note}", style="yellow")
    for one in found["tuned"]:
        share = f"{one['ratio']:.3f} of the best by hand" if one["ratios"] else "the best by hand itself"
        console.print(f"{one['model']}, batch {one['batch']}: tuned for {one['goal']} {share} ({one['best_by_hand']})")
    console.print(f"energy: {found['energy']}")
