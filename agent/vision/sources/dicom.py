"""Radiographs that the DICOM process has received and decoded, each once and none lost."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from agent.config import Config
from agent.datatypes import Frame
from agent.errors import ItemError, SourceError
from agent.studies import StudyError, StudyFolders, StudyPicture, UnknownStudyError
from agent.vision.base import Source

if TYPE_CHECKING:
    from agent.settings import Settings

SAME_BOOT_S = 60.0
"""A monotonic time counts if the age that it gives and the age by the wall clock are within this."""


class DicomConfig(Config):
    """Radiographs that arrive over DICOM; the section `dicom` says how."""

    goes_with: ClassVar[str] = "study"

    type: Literal["dicom"] = "dicom"
    period_s: float = Field(0.02, gt=0, le=60, description="Time between two looks for radiographs.")


class DicomSource(Source):
    """Pictures in order of arrival, named by the keyed hash of their instance, and reports of instances that came to nothing. A frame's
    image is grey in three equal channels, of which there is one in memory, and `about` is its StudyPicture; that of a report is empty,
    and `about` is its StudyFailure."""

    Config = DicomConfig
    config: DicomConfig

    def __init__(self, config: DicomConfig, stream: str) -> None:
        super().__init__(config, stream)
        self._folders: StudyFolders | None = None
        self._settings: Settings | None = None
        self._ready: deque[str] = deque()
        self._given: set[str] = set()
        """Out, and neither done nor failed."""
        self._index = 0
        self._interrupted = threading.Event()

    @property
    def finite(self) -> bool:
        return True

    def prepare(self, settings: Settings) -> None:
        self._settings = settings

    def open(self) -> None:
        self._opened()

    def read(self) -> Frame | None:
        folders = self._opened()
        while True:
            if not self._ready:
                self._scan(folders)
            while self._ready:
                frame = self._load(folders, self._ready.popleft())
                if frame is not None:
                    return frame
            if self._interrupted.wait(self.config.period_s):
                return None

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self._ready.clear()

    def done(self, item: str) -> None:
        if item in self._given:
            folders = self._opened()
            folders.picture_done(item)
            folders.reports.remove(item)
            self._given.discard(item)

    def failed(self, item: str, reason: str) -> None:
        if item not in self._given:
            return
        folders = self._opened()
        try:
            if not folders.reports.holds(item):
                folders.fail(item, "analysis", reason)
        except StudyError as error:
            raise OSError(str(error)) from error
        folders.pictures.remove(item)
        folders.reports.remove(item)
        self._given.discard(item)

    def _opened(self) -> StudyFolders:
        if self._folders is None:
            if self._settings is None:
                raise SourceError("STREAM_NOT_FOUND", "no settings say where radiographs are kept")
            try:
                self._folders = study_folders(self._settings)
            except StudyError as error:
                raise SourceError("STREAM_NOT_FOUND", str(error)) from error
        return self._folders

    def _scan(self, folders: StudyFolders) -> None:
        given = set(self._given)  # before the listing: what is done meanwhile may still be in it
        try:
            found = [*folders.pictures.items(), *folders.reports.items()]
        except OSError as error:
            raise SourceError("STREAM_LOST", f"{folders.pictures.path} cannot be read: {error.strerror}") from error
        self._ready = deque(item for item in found if item not in given)

    def _load(self, folders: StudyFolders, item: str) -> Frame | None:
        """None if it was taken away, or must wait. Raises ItemError if it is bad."""
        self._given.add(item)
        try:
            about = folders.report(item) if folders.reports.holds(item) else folders.picture(item)
        except UnknownStudyError:
            about = None
        except StudyError as error:
            raise ItemError(item, str(error)) from error
        if about is None:
            self._given.discard(item)
            return None
        self._index += 1
        if isinstance(about, StudyPicture):
            return _framed(about, self.stream, self._index - 1)
        nothing = np.empty((0, 0, 3), np.uint8)
        return Frame(nothing, self.stream, self._index - 1, about.failed_at, time.monotonic_ns(), item=item, about=about)


def study_folders(settings: Settings) -> StudyFolders:
    """Where the settings keep studies. Raises StudyError."""
    return StudyFolders(settings.state_dir, settings.dicom.key_file if settings.dicom else None)


def _framed(picture: StudyPicture, stream: str, index: int) -> Frame:
    """Of the moment at which its last byte came; a time of another boot's clock does not count."""
    now_ns, age_s = time.monotonic_ns(), time.time() - picture.received_at
    since_ns = now_ns - picture.received_ns
    same_boot = since_ns >= 0 and abs(since_ns / 1e9 - age_s) < SAME_BOOT_S
    image = np.broadcast_to(picture.image[:, :, None], (*picture.image.shape, 3))
    return Frame(image, stream, index, picture.received_at, picture.received_ns if same_boot else now_ns, item=picture.item, about=picture)
