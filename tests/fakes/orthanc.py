"""A real PACS: Orthanc on loopback, with its plugin for DICOMweb."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.ports import free_port
from tests.waiting import wait_until

WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """Takes instances by C-STORE and by STOW-RS at `studies` once it is started; keeps them over a restart."""

    def __init__(self, folder: Path) -> None:
        self.port, self._http = free_port(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.studies = f"http://127.0.0.1:{self._http}/dicom-web/studies"
        self._settings = folder / "orthanc.json"
        store = str(folder / "store")
        options: dict[str, Any] = {"StorageDirectory": store, "IndexDirectory": store, "DicomAet": "PACS", "DicomPort": self.port}
        options |= {"HttpPort": self._http, "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "Plugins": [str(WEB)]}
        options |= {"DicomAlwaysAllowStore": True, "DicomCheckCalledAet": True, "ConcurrentJobs": 1}
        self._settings.write_text(json.dumps(options))
        self._log = folder / "orthanc.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(["Orthanc", str(self._settings)], stdout=log, stderr=log)
        wait_until(self._answers, 60, f"Orthanc; {self._log}")

    def stop(self) -> None:
        """Kill it."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def instances(self) -> list[bytes]:
        """The DICOM files that it has."""
        return [self._get(f"/instances/{name}/file").content for name in self._get("/instances").json()]

    def _answers(self) -> bool:
        try:
            return self._get("/system").status_code == 200
        except httpx.HTTPError:
            return False

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self._http}{path}", timeout=60, trust_env=False)
