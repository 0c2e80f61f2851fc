"""`almena check`: is the settings file right? Needs no camera, no broker, no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from agent import settings as settings_module
from agent.dicom_settings import DicomServerTls, DicomSettings
from agent.errors import SettingsError
from agent.tls_settings import TlsSettings
from engines.card import card, card_for
from engines.errors import EngineError

app = typer.Typer(add_completion=False)

PARTS = {"detector": "face-detection", "embedder": "face-embedding", "model": "classification"}


@app.command()
def check(
    config: Annotated[Path, typer.Option("--config", "-c", help="The settings file.")] = Path("almena.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Read the settings file and say what is wrong, with path and line. Exit code 0 or 2."""
    try:
        settings = settings_module.load(config)
        unusable = _unusable(settings)
        if unusable:
            raise SettingsError("\n".join(f"{config}: {problem}" for problem in unusable))
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
    if settings.dicom:
        print(f"  dicom: {_dicom(settings.dicom)}")


def _dicom(dicom: DicomSettings) -> str:
    receiver, web, folder, destination = dicom.receiver, dicom.web, dicom.folder, dicom.destination
    ways = [f"{receiver.ae_title} at {receiver.host}:{receiver.port}"] if receiver.enabled else []
    ways += [f"STOW-RS at {web.host}:{web.port}"] if web else []
    ways += [f"the folder {folder.path}"] if folder else []
    to = (destination.url or f"{destination.ae_title} at {destination.host}:{destination.port}") if destination else "nobody"
    return f"from {', '.join(ways) or 'nobody'}; answers to {to}"


def _unusable(settings: settings_module.Settings) -> list[str]:
    """What the settings name that cannot be used: model cards, certificates."""
    tasks = [(stream, task) for stream in settings.streams for task in stream.tasks]
    parts = [
        (f"streams.{stream.name}.{part}", getattr(task, part), kind)
        for stream, task in tasks
        for part, kind in PARTS.items()
        if hasattr(task, part)
    ]
    served = [(f"serving.models.{model.name}", model.card, None) for model in settings.serving.models]
    problems = []
    for place, name, kind in (*parts, *served):
        try:
            card_for(name, kind) if kind else card(name)
        except EngineError as error:
            problems.append(f"{place}: {error}")
    for place, tls in _tls(settings):
        try:
            tls.context()
        except OSError as error:
            problems.append(f"{place}: certificates or key cannot be used: {error}")
    sources = [stream.name for stream in settings.streams if stream.source.type == "dicom"]
    if sources and settings.dicom is None:
        problems.append(f"streams.{sources[0]}: nothing receives radiographs for it: add a section `dicom`")
    return problems


def _tls(settings: settings_module.Settings) -> list[tuple[str, TlsSettings | DicomServerTls]]:
    dicom = settings.dicom
    found = {
        "mqtt.tls": settings.mqtt and settings.mqtt.tls,
        "dicom.receiver.tls": dicom and dicom.receiver.tls,
        "dicom.web.tls": dicom and dicom.web and dicom.web.tls,
        "dicom.destination.tls": dicom and dicom.destination and dicom.destination.tls,
    }
    return [(place, tls) for place, tls in found.items() if tls]
