"""The DICOM process, by the file that it writes every second. It may be down, and then the sample says so."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

SILENT_S = 10.0


class DicomCollector:
    """Reads `<state_dir>/run/dicom.json`."""

    def __init__(self, state_dir: Path) -> None:
        self._file = state_dir / "run" / "dicom.json"

    def collect(self) -> dict[str, Any]:
        """Its figures with `state` up, or `state` down with the reason."""
        try:
            figures: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return {"state": "down", "reason": f"{self._file} cannot be read: {getattr(error, 'strerror', None) or error}"}
        silent_s = time.time() - figures["at"]
        if silent_s > SILENT_S:
            return {"state": "down", "reason": f"no sign of life for {silent_s:.0f} s"}
        return {"state": "up", **figures}


def alarms(figures: dict[str, Any]) -> list[str]:
    """What somebody must look at, in sentences; none where all is well."""
    if figures["state"] == "down":
        return [f"the DICOM process does not run: {figures['reason']}"]
    found = []
    destination, dead = figures["destination"], figures["folders"]["dead"]["count"]
    if destination["state"] == "down":
        minutes = (time.time() - destination["since"]) / 60
        found.append(f"answers wait for {minutes:.0f} min: {destination['detail']}")
    if figures["folder"]:
        found.append(figures["folder"])
    if dead:
        found.append(f"{dead} answers were given up (studies/dead)")
    return found
