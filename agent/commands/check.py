"""`almena check`: is the settings file right? Needs no camera, no broker, no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from agent import settings as settings_module
from agent.errors import SettingsError

app = typer.Typer(add_completion=False)


@app.command()
def check(
    config: Annotated[Path, typer.Option("--config", "-c", help="The settings file.")] = Path("almena.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Read the settings file and say what is wrong, with path and line. Exit code 0 or 2."""
    try:
        settings = settings_module.load(config)
    except SettingsError as error:
        if as_json:
            print(json.dumps({"valid": False, "problems": str(error).splitlines()}))
            raise typer.Exit(2) from None
        raise
    if as_json:
        print(json.dumps({"valid": True, "device": settings.device.name, "streams": [stream.name for stream in settings.streams]}))
        return
    print(f"{config} is right: device {settings.device.name}, {len(settings.streams)} stream(s)")
    for stream in settings.streams:
        print(f"  {stream.name}: {stream.source.type} -> {', '.join(task.type for task in stream.tasks) or 'no task'}")
    where = (
        f"{settings.mqtt.host}:{settings.mqtt.port}, settled by {settings.mqtt.delivery}"
        if settings.mqtt
        else "no broker, results stay on the device"
    )
    print(f"  events: {where}")
