"""`almena check`: is the settings file right? Needs no camera, no broker, no model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from agent.dicom_settings import DicomServerTls, DicomSettings
from agent.errors import SettingsError
from agent.model_names import unusable
from agent.remote import Effective, effective
from agent.settings import Settings, parse
from agent.tls_settings import TlsSettings, WebTlsSettings
from agent.yaml_file import YamlFile

app = typer.Typer(add_completion=False)


@app.command()
def check(
    config: Annotated[Path, typer.Option("--config", "-c", help="The settings file.")] = Path("almena.yaml"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Read the settings file and say what is wrong, with path and line, and what holds instead of it by the hub. Exit code 0 or 2."""
    try:
        found = _checked(config)
    except SettingsError as error:
        if as_json:
            print(json.dumps({"valid": False, "problems": str(error).splitlines()}))
            raise typer.Exit(2) from None
        raise
    settings = found.settings
    if as_json:
        hub = {"hub": _from_hub(found)} if found.wish or found.problem else {}
        print(json.dumps({"valid": True, "device": settings.device.name, "streams": [stream.name for stream in settings.streams], **hub}))
        return
    print(f"{config} is right: device {settings.device.name}, {len(settings.streams)} stream(s)")
    if settings.idle:
        print(f"  warning: {settings.idle}")
    for stream in settings.streams:
        print(f"  {stream.name}: {stream.source.type} -> {', '.join(task.type for task in stream.tasks) or 'no task'}")
    where = (
        f"{settings.mqtt.host}:{settings.mqtt.port}, settled by {settings.mqtt.delivery}"
        if settings.mqtt
        else "no broker, results stay on the device"
    )
    print(f"  events: {where}")
    print(f"  pictures: {_pictures(settings)}")
    if settings.dicom:
        print(f"  dicom: {_dicom(settings.dicom)}")
    if found.wish:
        print(f"  from the hub, revision {found.wish.revision}: {', '.join(found.wish.state)}; the file's own do not hold")
    if found.problem:
        print(f"  from the hub: {found.problem}")


def _checked(config: Path) -> Effective:
    """Raises SettingsError with all that can be told at once: where the file is wrong, also what the rest of it names."""
    problems: list[str] = []
    try:
        found = effective(config)
        sound: Settings | None = found.settings
    except SettingsError as error:
        problems, sound = list(error.reasons), _sound(config)
    problems += [f"{config}: {problem}" for problem in (_unusable(sound) if sound else ())]
    if problems:
        raise SettingsError("\n".join(problems))
    return found


def _sound(config: Path) -> Settings | None:
    """The settings without the sections and streams in which something is wrong; None where that is not enough."""
    try:
        raw = YamlFile(config).raw
    except SettingsError:
        return None
    context = {"base": config.resolve().parent}
    wrong = {place[: 2 if place[:1] == ("streams",) else 1] for place, _ in parse(raw, context)[1]}
    if not isinstance(raw, dict) or () in wrong:
        return None
    left = {name: value for name, value in raw.items() if (name,) not in wrong}
    if isinstance(left.get("streams"), list):
        left["streams"] = [stream for number, stream in enumerate(left["streams"]) if ("streams", number) not in wrong]
    return parse(left, context)[0]


def _from_hub(found: Effective) -> dict[str, Any]:
    wish = found.wish
    return {"revision": wish and wish.revision, "sections": list(wish.state) if wish else [], "problem": found.problem}


def _pictures(settings: Settings) -> str:
    """What of pictures and identities leaves the device."""
    hub = settings.hub
    if hub is None:
        return "none leaves the device"
    leaves = ["faces with their events, and snapshots when somebody at the hub asks"] if hub.pictures else []
    leaves += ["live pictures while somebody at the hub looks"] if hub.live else []
    shared = "; identities are shared with the fleet" if hub.identities else ""
    return f"{', '.join(leaves)}, to {hub.url}{shared}" if leaves else f"none leaves the device{shared}"


def _dicom(dicom: DicomSettings) -> str:
    receiver, web, folder, destination = dicom.receiver, dicom.web, dicom.folder, dicom.destination
    ways = [f"{receiver.ae_title} at {receiver.host}:{receiver.port}"] if receiver.enabled else []
    ways += [f"STOW-RS at {web.host}:{web.port}"] if web else []
    ways += [f"the folder {folder.path}"] if folder else []
    to = (destination.url or f"{destination.ae_title} at {destination.host}:{destination.port}") if destination else "nobody"
    return f"from {', '.join(ways) or 'nobody'}; answers to {to}"


def _unusable(settings: Settings) -> list[str]:
    """What the settings name that cannot be used: model cards, certificates."""
    problems = unusable(settings)
    for place, tls in _tls(settings):
        try:
            tls.context()
        except OSError as error:
            problems.append(f"{place}: certificates or key cannot be used: {error}")
    return problems


def _tls(settings: Settings) -> list[tuple[str, TlsSettings | WebTlsSettings | DicomServerTls]]:
    dicom = settings.dicom
    found = {
        "mqtt.tls": settings.mqtt and settings.mqtt.tls,
        "web.tls": settings.web.tls,
        "dicom.receiver.tls": dicom and dicom.receiver.tls,
        "dicom.web.tls": dicom and dicom.web and dicom.web.tls,
        "dicom.destination.tls": dicom and dicom.destination and dicom.destination.tls,
    }
    return [(place, tls) for place, tls in found.items() if tls]
