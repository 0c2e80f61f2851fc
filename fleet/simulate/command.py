"""`almena simulate`."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from agent import logs
from agent.signals import at_stop
from fleet.simulate.crowd import Crowd
from fleet.simulate.scenario import load

app = typer.Typer(add_completion=False)
TELL_EVERY_S = 10.0


@app.command()
def simulate(
    scenario: Annotated[Path | None, typer.Argument(help="A scenario in YAML; see docs/hub.md.", exists=True, dir_okay=False)] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="So many devices at one site.")] = None,
    site: Annotated[str, typer.Option(help="Its name, with which theirs begin.")] = "sim",
    host: Annotated[str | None, typer.Option(help="The broker.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Its port.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the devices' outboxes lie.")] = None,
    telemetry: Annotated[float | None, typer.Option(min=0.1, help="Seconds between two samples of a device.")] = None,
    events: Annotated[float | None, typer.Option(min=0, help="Events a minute of each device.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="End after so long; default: with Ctrl-C.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Devices that speak the real protocol to a broker, with the uplink's own code, and misbehave on command.

    Options go before what the scenario says. `almena fleet command DEVICE misbehave fault=offline for_s=60` misbehaves at once.
    """
    given: dict[str, Any] = {
        "sites": {site: devices} if devices else None,
        "state_dir": folder,
        "telemetry_s": telemetry,
        "events_per_minute": events,
        "run_s": seconds,
    }
    broker = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = load(scenario, {name: value for name, value in given.items() if value is not None} | {"mqtt": broker})
    logs.setup("simulate", logging.WARNING)
    crowd = Crowd(settings)
    at_stop(crowd.stop)
    result = crowd.run(lambda line: print(line, file=sys.stderr), TELL_EVERY_S)
    print(json.dumps(result) if as_json else _text(result))


def _text(result: dict[str, Any]) -> str:
    lines = [f"{name}: {one['produced']} events produced, {one['connects']} connections" for name, one in result["devices"].items()]
    lines.append(
        f"{result['produced']} events in {result['seconds']} s; {result['processor_s']} s of the processor "
        f"({result['processor_percent']} % of a core), {result['memory_mb']} MB, {result['memory_mb_per_device']} MB for each device"
    )
    return "\n".join(lines)
