"""The worklist: recent radiographs with what the model said of them, or why they came to nothing, for the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np

from agent.errors import UnknownError
from agent.settings import Settings
from agent.studies import DamagedStudyError, StudyFailure, StudyFolders, StudyResult, UnknownStudyError
from agent.vision.sources.dicom import study_folders
from engines.preprocess import opencv

RECENT = 50
LONGEST = 1024
"""Pixels of the longer side of a picture for the page."""
HEAT = (0, 159, 230)
"""Orange, which people with any colour vision tell from grey (M. Okabe, K. Ito, "Color universal design", 2008); blue-green-red."""
STRENGTH = 0.65
"""How opaque it is where it is hottest."""


class StudyControl:
    """Reads what the folders hold. Items raise UnknownError once they are deleted."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folders: StudyFolders | None = None

    def recent(self) -> list[dict[str, Any]]:
        """The newest first, ready for JSON; empty where the settings have no section `dicom`. Raises StudyError."""
        if not self._settings.dicom:
            return []
        folders = self._opened()
        found = [*self._records(folders), *(_failed(failure) for failure in folders.failures()[-RECENT:])]
        return sorted(found, key=lambda record: float(record["made_at"]), reverse=True)[:RECENT]

    def picture(self, item: str) -> bytes:
        """A JPEG of the radiograph. Raises UnknownError, StudyError."""
        image = self._opened().picture(item).image
        scale = min(1.0, LONGEST / max(image.shape))
        size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        cv2 = opencv()
        _, data = cv2.imencode(".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA), [cv2.IMWRITE_JPEG_QUALITY, 90])
        return bytes(data)

    def heat_map(self, item: str) -> bytes:
        """A PNG to be laid over the picture, stretched to it: the hotter, the less transparent. Raises UnknownError, StudyError."""
        kept = self._opened().result(item).heat_map
        if kept is None:
            raise UnknownError(item)
        cv2 = opencv()
        heat = cv2.imdecode(np.frombuffer(kept, np.uint8), cv2.IMREAD_GRAYSCALE)
        overlay = np.empty((*heat.shape, 4), np.uint8)
        overlay[..., :3] = HEAT
        overlay[..., 3] = np.rint(heat * STRENGTH)
        _, data = cv2.imencode(".png", overlay)
        return bytes(data)

    def _opened(self) -> StudyFolders:
        if self._settings.dicom is None:
            raise UnknownError("studies")
        if self._folders is None:
            self._folders = study_folders(self._settings)
        return self._folders

    @staticmethod
    def _records(folders: StudyFolders) -> Iterator[dict[str, Any]]:
        for item in reversed(folders.results.items()[-RECENT:]):
            with suppress(UnknownStudyError):  # deleted meanwhile
                yield _row(folders, item)


def _row(folders: StudyFolders, item: str) -> dict[str, Any]:
    """Raises UnknownStudyError."""
    try:
        result = folders.result(item)
    except DamagedStudyError:
        return _failed(StudyFailure(item, "storage", "what was stored of its result is damaged", folders.results.written_at(item)))
    return _record(result, picture=folders.shown.holds(item) or folders.pictures.holds(item))


def _record(result: StudyResult, picture: bool) -> dict[str, Any]:
    return {
        "item": result.item,
        "made_at": result.made_at,
        "model": result.model,
        "decision": result.decision or None,
        "positive": result.positive,
        "threshold": result.threshold,
        "scores": dict(result.probabilities),
        "abstained": result.abstained or None,
        "failure": None,
        "findings": list(result.findings),
        "timings": dict(result.timings),
        "picture": picture,
        "heat_map": result.heat_map is not None,
        "explained": result.explained or None,
    }


def _failed(failure: StudyFailure) -> dict[str, Any]:
    nothing = StudyResult(failure.item, "", {}, "", 0.0, "", failure.detail, made_at=failure.failed_at)
    return _record(nothing, picture=False) | {"failure": failure.reason}
