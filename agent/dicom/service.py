"""The DICOM process as a whole."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from agent.dicom.counters import Counters
from agent.dicom.folder import WatchedFolder
from agent.dicom.intake import Intake
from agent.dicom.receiver import Receiver
from agent.dicom.sender import Sender
from agent.dicom.stow import StowServer
from agent.dicom.workshop import Workshop
from agent.errors import SettingsError
from agent.rounds import Rounds
from agent.settings import Settings
from agent.studies import SealedFolder, StudyError, StudyFolders

log = logging.getLogger(__name__)

RECEIPTS_S = 90 * 86400.0
"""How long it is remembered which pixels an instance had that was answered."""
HOUSEKEEPING_S = 60.0
FOLDERS = ("inbox", "pictures", "answers", "failed", "dead")
"""Whose load is told; inbox: all that is not answered, of which some waits in pictures and answers."""


class Dicom:
    """Sinks start first and sources last; they stop along the flow."""

    def __init__(self, settings: Settings) -> None:
        if settings.dicom is None:
            raise SettingsError("there is no section `dicom` in the settings")
        dicom = self._settings = settings.dicom
        self._status = settings.state_dir / "run" / "dicom.json"
        self.folders = StudyFolders(settings.state_dir, dicom.key_file)
        self.counters = Counters()
        self.workshop = Workshop(self.folders, settings.state_dir, dicom.key_file, self.counters)
        self.sender = Sender(dicom.destination, dicom.receiver.ae_title, self.folders, self.workshop, self.counters)
        intake = Intake(dicom, self.folders, self.counters, self.workshop.decode)
        limit = dicom.max_instance_bytes
        self.receiver = Receiver(dicom.receiver, limit, intake, self.counters) if dicom.receiver.enabled else None
        self.web = StowServer(dicom.web, limit, intake, self.counters) if dicom.web else None
        self.folder = WatchedFolder(dicom.folder, limit, intake, self.counters) if dicom.folder else None
        self._housekeeper = Rounds("dicom-housekeeping", self._keep_house, HOUSEKEEPING_S)

    def start(self) -> None:
        """Raises AlmenaError if a port cannot be used."""
        self._status.parent.mkdir(parents=True, exist_ok=True)
        if self.receiver:
            self.receiver.start()
        for part in (self._housekeeper, self.workshop, self.sender, self.web, self.folder):
            if part:
                part.start()
        self.tell()
        ports = ", ".join(f"{name} on port {port}" for name, port in self.ports().items())
        log.info("receiving: %s", ports or "from the folder only")

    def stop(self) -> None:
        """What was acknowledged stays."""
        for part in (self.folder, self.web, self.receiver, self.workshop, self.sender, self._housekeeper):
            if part:
                part.stop()

    @property
    def alive(self) -> bool:
        """Whether all workers work; one that an error has ended does not."""
        parts = {"dicom-receiver": self.receiver, "dicom-folder": self.folder, "dicom-web": self.web}
        wanted = {"workshop", "dicom-sender", "dicom-housekeeping", *(name for name, part in parts.items() if part)}
        return wanted <= {thread.name for thread in threading.enumerate()}

    def ports(self) -> dict[str, int]:
        """Those in use."""
        found = {"C-STORE": self.receiver.port if self.receiver else 0, "STOW-RS": self.web.port if self.web else 0}
        return {name: port for name, port in found.items() if port}

    def tell(self) -> None:
        """Write counters, ports and what is wrong to run/dicom.json."""
        now = time.time()
        try:
            self.counters.write(
                self._status, ports=self.ports(), destination=self.sender.state(), folder=self.folder.trouble if self.folder else "",
                folders={name: self._held(name, now) for name in FOLDERS},
                free_bytes=shutil.disk_usage(self.folders.inbox.path).free, at=now,
            )  # fmt: skip
        except OSError as error:
            log.error("%s cannot be written: %s", self._status, error.strerror)

    def _held(self, name: str, now: float) -> dict[str, Any]:
        folder: SealedFolder = getattr(self.folders, name)
        load = folder.load()
        age = None if load.oldest_at is None else round(max(now - load.oldest_at, 0.0), 1)
        return {"count": load.count, "bytes": load.size_bytes, "oldest_age_s": age}

    def _keep_house(self) -> None:
        try:
            self.expire(time.time())
        except (OSError, StudyError) as error:
            log.error("old pictures cannot be removed: %s", error)

    def expire(self, now: float) -> None:
        """Remove pictures and results that were answered, and failed instances, `keep_h` after they came; never what still has to be
        answered."""
        folders, before = self.folders, now - 3600 * self._settings.keep_h
        needed = {*folders.inbox.items(), *folders.dead.items()}
        for folder in (folders.shown, folders.results):
            for item in folder.items():
                if item not in needed and not folders.pictures.holds(item) and folder.written_at(item) < before:
                    folder.remove(item)
        for failure in folders.failures():
            if failure.failed_at < before:
                folders.reopen(failure.item)
        for item in folders.answered.items():
            if folders.answered.written_at(item) < now - RECEIPTS_S:
                folders.answered.remove(item)
        for path in folders.inbox.path.parent.iterdir():
            if path.is_dir():
                _sweep(path, now)


def _sweep(folder: Path, now: float) -> None:
    """Remove parts of files that a process left when it was killed."""
    for part in folder.glob(".*.part"):
        if now - part.stat().st_ctime > 3600.0:
            part.unlink(missing_ok=True)
