"""Identities and clusters for the control API: records in, records out."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as OutOfPatience
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any

from agent.datatypes import Image
from agent.errors import AlmenaError, UnknownError
from agent.outbox import Outbox
from agent.serving import Problem
from agent.settings import Settings
from agent.vision.clusters import Cluster
from agent.vision.enrolment import EnrolmentError
from agent.vision.erasure import erase
from agent.vision.face_kit import FaceKit, open_gallery
from agent.vision.gallery import Gallery
from agent.vision.pictures import decode
from agent.vision.recognition import Evidence, Judge, geometry, sharp_share
from agent.vision.sharing import SharedFaces
from agent.vision.tasks.faces import FacesConfig
from engines.base import EngineError
from engines.results import Detections

PATIENCE_S = 5.0
"""How long a request waits for models."""


class FaceControl:
    """What `agent.vision.control.Faces` asks for, with the models and settings of the first stream that recognises faces.

    Only what looks at pictures needs models. They are loaded when first asked for, unless a stream has loaded them; whoever asks
    meanwhile gets a Problem of status 503. Unknown ids raise UnknownError, refusals GalleryError or EnrolmentError.
    """

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        tasks = [task for stream in settings.streams for task in stream.tasks if isinstance(task, FacesConfig)]
        self._config = tasks[0] if tasks else FacesConfig()
        self._settings = settings
        self._outbox = outbox
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        """Held while a photograph is decoded and looked at: each takes up to 400 MB."""
        self._loader = ThreadPoolExecutor(1, "load-faces")
        self._loaded: Future[FaceKit] | None = None
        self.shared = SharedFaces(self._gallery, outbox)

    @property
    def kit(self) -> FaceKit:
        """The models. Raises Problem while they are being loaded, AlmenaError where they cannot be."""
        with self._lock:
            if self._loaded is None or (self._loaded.done() and self._loaded.exception()):
                self._loaded = self._loader.submit(FaceKit.open, self._settings, self._config.detector, self._config.embedder)
            loaded = self._loaded
        try:
            return loaded.result(PATIENCE_S)
        except OutOfPatience:
            raise Problem(503, "Models are being loaded", "the first start takes minutes; try again soon", {"Retry-After": "10"}) from None
        except EngineError as error:
            raise AlmenaError(str(error)) from error

    def close(self) -> None:
        """Give the models back: at once, or when they are there, if they are still being loaded."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        if self._loaded is not None:
            self._loaded.add_done_callback(self._give_back)

    def identities(self) -> list[dict[str, Any]]:
        """All, by name."""
        with self._gallery() as gallery:
            return [asdict(identity) for identity in gallery.identities()]

    def create(self, name: str, consent: str, expires_at: float | None) -> dict[str, Any]:
        """A new identity, still without a picture."""
        with self._gallery() as gallery:
            return asdict(gallery.add(name, [], consent, expires_at))

    def add_image(self, identity: str, picture: bytes) -> Mapping[str, Any]:
        """`accepted`, and `reasons` if it was not; `warnings` are for people."""
        try:
            with self._looking:
                report = self.kit.enrolment.add(identity, [picture])
        except EnrolmentError as error:
            return {
                "accepted": False,
                "reasons": [refusal.message for refusal in error.refused],
                "codes": [one.reason for one in error.refused],
            }
        return {"accepted": True, "reasons": [], "warnings": list(report.warnings), "identity": asdict(report.identity)}

    def pictures(self, identity: str) -> Sequence[bytes]:
        """The enrolled pictures, JPEG."""
        with self._gallery() as gallery:
            gallery.get(identity)
            return gallery.pictures(identity)

    def change(self, identity: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Other values for any of name, consent and expires_at (Unix seconds; None: never)."""
        with self._gallery() as gallery:
            return asdict(gallery.change(identity, **changes))

    def erase(self, identity: str) -> None:
        """Templates, pictures, matching clusters, and the name in the local history. Waits for no model."""
        with self._gallery() as gallery:
            erase(gallery, self._outbox, identity)

    def _give_back(self, loaded: Future[FaceKit]) -> None:
        with self._looking:
            if not loaded.cancelled() and not loaded.exception():
                loaded.result().close()

    @contextmanager
    def _gallery(self) -> Iterator[Gallery]:
        """That of the models where they are loaded, else one without them."""
        kit = FaceKit.opened(self._settings, self._config.detector, self._config.embedder)
        with closing(kit or open_gallery(self._settings)) as opened:
            yield opened.gallery if isinstance(opened, FaceKit) else opened

    def clusters(self) -> list[dict[str, Any]]:
        """Unknown persons, the newest first; no templates."""
        with self._gallery() as gallery:
            return [_cluster(cluster) for cluster in gallery.clusters.all()]

    def name_cluster(self, cluster: str, name: str, consent: str, expires_at: float | None) -> dict[str, Any]:
        """Make an identity of an unknown person."""
        with self._gallery() as gallery:
            return asdict(gallery.name_cluster(cluster, name, consent, expires_at))

    def erase_cluster(self, cluster: str) -> None:
        """Forget an unknown person."""
        with self._gallery() as gallery:
            erased = gallery.clusters.erase(cluster)
        if not erased:
            raise UnknownError(f"there is no cluster {cluster!r}")

    def recognise(self, picture: bytes) -> list[dict[str, Any]]:
        """Every face of a photograph, decided as the stream decides about photographs."""
        with self._looking:
            return self._recognised(decode(picture))

    def _recognised(self, image: Image) -> list[dict[str, Any]]:
        kit, config = self.kit, self._config
        score = config.score or kit.score
        faces = kit.photograph(image, score)
        views = geometry(faces.boxes, faces.landmarks, image.shape[1], image.shape[0])
        clear = set(config.recognisable(faces, score))
        answers = []
        for index in range(len(faces)):
            judge = Judge.of_photograph(config.point(kit.point))
            if index in clear:
                chip = kit.embedder.chip(image, faces.landmarks[index])
                evidence = Evidence()
                evidence.add(kit.embed([chip])[0], float(views[index]) * sharp_share(chip))
                judge.assess(evidence, kit.gallery.candidates)
            answers.append(_answer(faces, index, judge))
        return answers


def _answer(faces: Detections, index: int, judge: Judge) -> dict[str, Any]:
    box = dict(zip(("x_min", "y_min", "x_max", "y_max"), faces.boxes[index].tolist(), strict=True))
    return {
        "box": {**box, "probability": float(faces.scores[index])},
        "decision": judge.decision.kind,
        "identity": judge.decision.identity,
        "name": judge.decision.name,
        "distance": judge.decision.distance,
        "second_best": judge.decision.second_best,
        "threshold": None if math.isnan(judge.limit) else judge.limit,
    }


def _cluster(cluster: Cluster) -> dict[str, Any]:
    return {"id": cluster.id, "sightings": cluster.sightings, "created_at": cluster.created_at, "seen_at": cluster.seen_at}
