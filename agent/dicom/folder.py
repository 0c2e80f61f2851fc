"""A watched folder of .dcm files. It is scanned instead of watched by inotify, which network shares do not have."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from agent.dicom.counters import Counters
from agent.dicom.elements import pixels_of
from agent.dicom.intake import Intake, RefusedError
from agent.dicom.reading import PREFIX, UnusableError, identify, inflated
from agent.dicom_settings import DicomFolderSettings
from agent.rounds import Rounds

log = logging.getLogger(__name__)

INCOMPLETE_S = 60.0
"""A file that ends before its pixel data does is left for so long after its last change: who writes it may only pause."""
SUFFIXES = (".dcm", ".dicom")
LATER = ("no-space", "storage")
"""Refusals that are not the file's fault: it stays and is tried again."""


class WatchedFolder:
    """Takes what is complete, the oldest first; what is refused is moved to failed/ with the reason beside it."""

    def __init__(self, settings: DicomFolderSettings, max_bytes: int, intake: Intake, counters: Counters) -> None:
        self._settings = settings
        self._max_bytes = max_bytes
        self._intake = intake
        self._counters = counters
        self.trouble = ""
        self._unreadable: set[Path] = set()
        """Files that were told of."""
        self._rounds = Rounds("dicom-folder", self._round, settings.period_s)

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> None:
        """End after the file in hand."""
        self._rounds.stop()

    def look(self) -> None:
        """One round. Raises OSError if the folder cannot be read."""
        complete = []
        with os.scandir(self._settings.path) as entries:
            for entry in entries:
                if entry.name.lower().endswith(SUFFIXES) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    if time.time() - status.st_mtime >= self._settings.settle_s:
                        complete.append((status.st_mtime, Path(entry.path), status.st_size))
        for changed, path, size in sorted(complete):
            if self._rounds.stopping:
                return
            self._take(path, size, waited_s=time.time() - changed)

    def _round(self) -> None:
        try:
            self.look()
            self.trouble = ""
        except OSError as error:
            trouble = f"{self._settings.path} cannot be used: {error.strerror}"
            if trouble != self.trouble:
                log.error("%s", trouble)
            self.trouble = trouble

    def _take(self, path: Path, size: int, waited_s: float) -> None:
        if size > self._max_bytes:
            self._counters.refused("too-large")
            self._refuse(path, "too-large: it is larger than dicom.max_instance_bytes")
            return
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            if path not in self._unreadable:
                self._unreadable.add(path)
                log.error("a file of %s cannot be read, the others are taken: %s", self._settings.path, error.strerror)
            return
        cut_off = self._cut_off(data)
        if cut_off and waited_s < INCOMPLETE_S:
            return
        try:
            if cut_off:
                self._counters.refused(cut_off.reason)
                raise RefusedError(cut_off.reason, str(cut_off))
            self._intake.accept(data)
        except RefusedError as error:
            if error.reason in LATER:
                raise OSError(0, str(error)) from error
            self._refuse(path, f"{error.reason}: {error}")
            return
        if self._settings.after == "delete":
            path.unlink(missing_ok=True)
        else:
            _moved(path, "done")

    def _cut_off(self, data: bytes) -> UnusableError | None:
        """Why a file cannot be used that is not there to the end of its pixel data, so that more may come; None for any other."""
        if not (PREFIX.startswith(data) or data[128:132] == b"DICM"):
            return None
        try:
            data = inflated(data, self._max_bytes)
            if pixels_of(data):
                return None
            identify(data)
            return UnusableError("damaged", "it has no pixel data")
        except UnusableError as error:
            return error

    def _refuse(self, path: Path, why: str) -> None:
        log.warning("a file of %s was refused: %s", self._settings.path, why)
        target = _moved(path, "failed")
        target.with_name(target.name + ".reason.txt").write_text(why + "\n", encoding="utf-8")


def _moved(path: Path, to: str) -> Path:
    """Into a sub-folder, beside a file of the same name that is there."""
    folder = path.parent / to
    folder.mkdir(exist_ok=True)
    target, number = folder / path.name, 1
    while target.exists():
        target, number = folder / f"{path.stem}-{number}{path.suffix}", number + 1
    os.replace(path, target)
    return target
