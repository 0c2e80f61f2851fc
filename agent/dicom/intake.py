"""What comes in is stored before it is acknowledged, once: the same for C-STORE, STOW-RS and the folder."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent.dicom.counters import Counters
from agent.dicom.elements import pixels_of
from agent.dicom.reading import Identity, UnusableError, identify, inflated
from agent.dicom_settings import DicomSettings
from agent.studies import DamagedStudyError, SealedFolder, StudyError, StudyFolders, StudyInstance, StudySpaceError, UnknownStudyError

log = logging.getLogger(__name__)

LOCKS = 64


@dataclass(frozen=True, slots=True)
class Accepted:
    """An instance that is stored. `duplicate`: it was before."""

    item: str
    identity: Identity
    duplicate: bool


class RefusedError(UnusableError):
    """An instance that was not stored: try again later, or send another."""


class Intake:
    """Takes instances. Several threads may."""

    def __init__(self, settings: DicomSettings, folders: StudyFolders, counters: Counters, on_item: Callable[[str], None]) -> None:
        self._settings = settings
        self._folders = folders
        self._counters = counters
        self._on_item = on_item
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def accept(self, data: bytes, received_ns: int | None = None, expected: str | None = None) -> Accepted:
        """Store a DICOM file; durable once this returns.

        `received_ns` is the monotonic time of the last byte, `expected` the SOP Instance UID that the caller announced. Raises
        RefusedError. Reasons: those of `identify`, and `too-large`, `uid-mismatch`, `conflict` (the same UID with other pixels),
        `no-space`, `storage`.
        """
        try:
            return self._accept(data, received_ns or time.monotonic_ns(), expected)
        except UnusableError as error:
            self._counters.refused(error.reason)
            raise RefusedError(error.reason, str(error)) from None
        except StudyError as error:
            reason = "no-space" if isinstance(error, StudySpaceError) else "storage"
            self._counters.refused(reason)
            raise RefusedError(reason, str(error)) from error

    def _accept(self, data: bytes, received_ns: int, expected: str | None) -> Accepted:
        if len(data) > self._settings.max_instance_bytes:
            raise UnusableError("too-large", "it is larger than dicom.max_instance_bytes")
        data = inflated(data, self._settings.max_instance_bytes)
        identity = identify(data)
        if expected is not None and expected != identity.instance:
            raise UnusableError("uid-mismatch", "its SOP Instance UID is not the one that was announced")
        item = self._folders.item(identity.instance)
        with self._locks[int(item[:4], 16) % LOCKS]:
            duplicate = self._known(item, data)
            if not duplicate:
                self._require_space(len(data))
                with self._counters.times.stage("store"):
                    self._folders.write_instance(StudyInstance(item, data, time.time(), received_ns))
                self._folders.reopen(item)
        self._counters.accepted(duplicate)
        self._on_item(item)
        return Accepted(item, identity, duplicate)

    def _known(self, item: str, data: bytes) -> bool:
        """Whether it is here, or was answered. Raises UnusableError if that one has other pixels.

        Where nobody can tell what was here it begins anew: nothing that was made of other pixels may answer for it.
        """
        try:
            return self._repeated(item, data)
        except DamagedStudyError as error:
            log.error("%s: this takes the place of what was stored of it: %s", item, error)
            folders = self._folders
            for made in (folders.pictures, folders.shown, folders.results, folders.answers, folders.answered):
                made.remove(item)
            folders.forget(item)
            return False

    def _repeated(self, item: str, data: bytes) -> bool:
        """In the order in which the sender moves it on, so that it is seen in one of the places."""
        folders = self._folders
        if folders.failed.holds(item):
            return folders.instance(item, folders.failed).data == data
        for folder in (folders.inbox, folders.dead, folders.answered):
            try:
                same = self._same(item, data, folder)
            except UnknownStudyError:
                continue
            if not same:
                raise UnusableError("conflict", "an instance of the same UID with other pixels was stored before; this one is not")
            if folder is folders.dead:
                folders.reopen(item)
            return True
        return False

    def _same(self, item: str, data: bytes, folder: SealedFolder) -> bool:
        """Whether it has the pixels of what a folder has. Raises StudyError."""
        if folder is self._folders.answered:
            if not (pixels := folder.read(item)[0]["pixels"]):
                raise DamagedStudyError(f"the receipt of {item} does not tell its pixels")
            return bool(pixels == self._folders.fingerprint(pixels_of(data)))
        known = self._folders.instance(item, folder).data
        return known == data or pixels_of(known) == pixels_of(data)

    def _require_space(self, size: int) -> None:
        status = os.statvfs(self._folders.inbox.path)
        if status.f_bavail * status.f_frsize < self._settings.min_free_bytes + 2 * size:
            raise UnusableError("no-space", "the disk is nearly full (dicom.min_free_bytes); send it again later")
