"""Detector, embedder and gallery, loaded once for all streams that ask for the same."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.datatypes import Image
from agent.settings import Settings
from agent.vision.enrolment import Enrolment
from agent.vision.gallery import Gallery
from agent.vision.kits import Kits
from agent.vision.loading import PULSE
from agent.vision.recognition import OperatingPoint, operating_point
from agent.vision.tasks.faces_config import DETECTOR, EMBEDDER
from calibration.stills import AtScore, find_faces
from engines.card import ModelCard, card
from engines.fetch import Progress
from engines.model import EngineOptions, FaceDetector, FaceEmbedder, load_detector, load_embedder
from engines.results import Detections

_kits: Kits[FaceKit] = Kits(lambda kit: kit.free())


@dataclass(slots=True)
class FaceKit:
    """What faces need. `open` and `close` go together; the last `close` frees the engines."""

    detector: FaceDetector
    embedder: FaceEmbedder
    gallery: Gallery
    key: Any
    renewed: int = -1
    """Version of the gallery whose pictures have all been read."""

    @staticmethod
    def open(settings: Settings, detector: str = DETECTOR, embedder: str = EMBEDDER, progress: Progress = PULSE) -> FaceKit:
        """The kit of this process for these models; `progress` is told of what is fetched. Raises EngineError, GalleryError."""
        key = _key(settings, detector, embedder)
        return _kits.open(key, lambda: _load(settings, detector, embedder, key, progress))

    @staticmethod
    def opened(settings: Settings, detector: str = DETECTOR, embedder: str = EMBEDDER) -> FaceKit | None:
        """The kit, opened once more, if it is there already; never waits for models."""
        return _kits.opened(_key(settings, detector, embedder))

    @property
    def models(self) -> dict[str, FaceDetector | FaceEmbedder]:
        """By the names that the settings have for them."""
        return {self.key[-2]: self.detector, self.key[-1]: self.embedder}

    @property
    def score(self) -> float:
        """The least score of a face, by the detector's card."""
        return least_score(self.detector.card)

    @property
    def enrolment(self) -> Enrolment:
        """Identity enrolment with these models into this gallery."""
        return Enrolment(AtScore(self.detector, self.score), self.embedder, self.gallery)

    def photograph(self, image: Image, score: float | None = None) -> Detections:
        """Faces of a photograph, looked for at several sizes. `score`: the least, instead of the card's."""
        return find_faces(AtScore(self.detector, score or self.score), image)

    @property
    def point(self) -> OperatingPoint:
        """The embedder's operating point."""
        assert self.gallery.point is not None
        return self.gallery.point

    def embed(self, chips: list[Image]) -> NDArray[np.float32]:
        """Templates of aligned chips, (N, D)."""
        return self.embedder.embed(np.stack(chips)).vectors

    def refresh(self) -> None:
        """Follow what other processes, and kits with other models, have changed in the gallery; read pictures that are new."""
        self.gallery.refresh()
        if self.renewed != self.gallery.candidates.version:
            self.enrolment.renew()
            self.renewed = self.gallery.candidates.version

    def close(self) -> None:
        """Give it back."""
        _kits.close(self.key)

    def free(self) -> None:
        """For the last one that closes it."""
        self.gallery.close()
        self.embedder.close()
        self.detector.close()


def _key(settings: Settings, detector: str, embedder: str) -> Any:
    return (settings.state_dir, settings.engines, settings.gallery, detector, embedder)


def open_kits() -> list[FaceKit]:
    """Every kit of this process, opened once more: close each."""
    return _kits.all_opened()


def open_gallery(settings: Settings) -> Gallery:
    """The gallery without engines: only the embedder's card is read. Raises GalleryError."""
    embedder = card(chosen_models(settings)[1])
    return Gallery.open(settings.gallery_dir, settings.gallery, embedder.model_id, operating_point(embedder))


def engine_options(settings: Settings) -> EngineOptions:
    """How the settings want models to be run."""
    engines = settings.engines
    return EngineOptions(
        settings.models_dir,
        settings.engines_dir,
        engines.backend,
        engines.precision,
        engines.policy,
        unit=engines.unit,
        progress=PULSE,
        stage=PULSE,
    )


def chosen_models(settings: Settings) -> tuple[str, str]:
    """Detector and embedder of the first stream that looks for faces, else the default ones."""
    named = [(task.detector, task.embedder) for stream in settings.streams for task in stream.tasks if task.type == "faces"]
    return named[0] if named else (DETECTOR, EMBEDDER)


def least_score(detector: ModelCard) -> float:
    """The score from which a detector's card calls something a face."""
    assert detector.thresholds.score is not None
    return detector.thresholds.score


def _load(settings: Settings, detector_name: str, embedder_name: str, key: Any, progress: Progress) -> FaceKit:
    options = replace(engine_options(settings), progress=progress)
    with ExitStack() as opened:
        embedder = load_embedder(embedder_name, options)
        opened.callback(embedder.close)
        gallery = Gallery.open(settings.gallery_dir, settings.gallery, embedder.model_id, operating_point(embedder.card))
        opened.callback(gallery.close)
        detector = load_detector(detector_name, options)
        opened.callback(detector.close)
        kit = FaceKit(detector, embedder, gallery, key)
        kit.refresh()
        opened.pop_all()
    return kit
