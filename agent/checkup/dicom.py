"""Radiographs: the libraries, the port, the destination, and what came to nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from agent.checkup import Check
from agent.dicom_settings import DicomDestinationSettings, DicomSettings

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


def _unanswered(state_dir: Path) -> Check:
    """What failed/ and dead/ hold."""
    folders = {name: sorted((state_dir / "studies" / name).glob("*.json")) for name in ("failed", "dead")}
    if not any(folders.values()):
        return Check("radiographs", "ok", "none failed, every answer was sent or waits")
    reasons = sorted({json.loads(path.read_text(encoding="utf-8"))["reason"] for paths in folders.values() for path in paths})
    counts = ", ".join(f"{len(paths)} in {state_dir / 'studies' / name}" for name, paths in folders.items() if paths)
    return Check("radiographs", "warn", f"{counts}: {', '.join(reasons)}", "The .json file beside each says why; docs/dicom.md what to do.")
