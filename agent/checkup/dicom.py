"""Radiographs: the libraries, the port, the destination, and what came to nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from agent.checkup import Check, State
from agent.dicom_settings import DicomDestinationSettings, DicomSettings
from agent.uplink.telemetry.dicom import DicomCollector

LIBRARIES = ("pydicom", "pynetdicom", "highdicom", "gdcm")
WITHIN_S = 5.0


def dicom_checks(settings: DicomSettings, state_dir: Path) -> Iterator[Check]:
    """All of them."""
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        yield Check("dicom libraries", "fail", f"not there: {', '.join(missing)}", "pip install 'almena[dicom]'")
    else:
        yield Check("dicom libraries", "ok", ", ".join(LIBRARIES))
    if settings.receiver.enabled:
        yield _port(settings)
    yield _destination(settings.destination)
    yield _process(DicomCollector(state_dir).collect())
    yield _unanswered(state_dir)


def _port(settings: DicomSettings) -> Check:
    where = f"{settings.receiver.host}:{settings.receiver.port}"
    try:
        with socket.create_connection((settings.receiver.host, settings.receiver.port), WITHIN_S):
            return Check("dicom port", "ok", f"{where} answers; `almena run` or another program listens there")
    except OSError:
        return Check("dicom port", "ok", f"{where} is free")


def _destination(settings: DicomDestinationSettings | None) -> Check:
    if settings is None:
        return Check("dicom destination", "warn", "none set: results stay on this device", "Set dicom.destination to send answers.")
    if settings.host is None:
        return Check("dicom destination", "ok", f"{settings.url}, which is not tried")
    try:
        with socket.create_connection((settings.host, settings.port), WITHIN_S):
            return Check("dicom destination", "ok", f"{settings.host}:{settings.port} takes connections")
    except OSError as error:
        text = f"{settings.host}:{settings.port} takes no connection: {error.strerror or error}"
        return Check("dicom destination", "fail", text, "Answers wait until it does.")


def _process(figures: dict[str, Any]) -> Check:
    """What the running process says of itself; what it has given up is a check of its own."""
    if figures["state"] == "down":
        return Check("dicom process", "ok", "it does not run now; `almena run` starts it")
    since, inbox = figures["destination"]["since"], figures["folders"]["inbox"]
    waiting = f"{inbox['count']} radiographs wait" + (f", the oldest for {inbox['oldest_age_s'] / 60:.0f} min" if inbox["count"] else "")
    if since is not None:
        text = f"answers wait since {datetime.fromtimestamp(since):%Y-%m-%d %H:%M:%S}: {figures['destination']['detail']}; {waiting}"
        return Check("dicom process", "fail", text, "They are sent once the destination takes them; nothing is lost before give_up_h.")
    return Check("dicom process", "ok", waiting)


def _unanswered(state_dir: Path) -> Check:
    """What failed/ and dead/ hold: answers that were given up are a fault, instances that cannot be used a note."""
    folders = {name: sorted((state_dir / "studies" / name).glob("*.json")) for name in ("failed", "dead")}
    if not any(folders.values()):
        return Check("radiographs", "ok", "none failed, every answer was sent or waits")
    reasons = sorted({json.loads(path.read_text(encoding="utf-8"))["reason"] for paths in folders.values() for path in paths})
    counts = ", ".join(f"{len(paths)} in {state_dir / 'studies' / name}" for name, paths in folders.items() if paths)
    state: State = "fail" if folders["dead"] else "warn"
    return Check("radiographs", state, f"{counts}: {', '.join(reasons)}", "The .json file beside each says why; docs/dicom.md what to do.")
