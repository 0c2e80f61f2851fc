"""Identities and clusters for the control API: records in, records out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Any, TypeVar

from agent.errors import UnknownError
from agent.outbox import Outbox
from agent.settings import Settings
from agent.vision.clusters import Cluster
from agent.vision.enrolment import EnrolmentError
from agent.vision.erasure import erase
from agent.vision.face_kit import FaceKit, chosen_models, open_gallery
from agent.vision.gallery import Gallery, Identity, UnknownIdentityError
from agent.vision.pictures import decode

T = TypeVar("T")


class FaceControl:
    """What `agent.vision.control.Faces` asks for. The models are loaded when first asked for, unless a stream has loaded them.

    Unknown ids raise UnknownError, refusals GalleryError or EnrolmentError.
    """

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        self._settings = settings
        self._outbox = outbox
        self._kit: FaceKit | None = None

    @property
    def kit(self) -> FaceKit:
        """Of the first stream that recognises faces, else the default one."""
        if self._kit is None:
            self._kit = FaceKit.open(self._settings, *chosen_models(self._settings))
        return self._kit

    def close(self) -> None:
        """Give the models back."""
        if self._kit is not None:
            self._kit.close()
            self._kit = None

    def identities(self) -> list[dict[str, Any]]:
        """All, by name."""
        return [asdict(identity) for identity in self.kit.gallery.identities()]

    def create(self, name: str, consent: str, expires_at: float | None) -> dict[str, Any]:
        """A new identity, still without a picture."""
        return asdict(self.kit.gallery.add(name, [], consent, expires_at))

    def add_image(self, identity: str, picture: bytes) -> Mapping[str, Any]:
        """`accepted`, and `reasons` if it was not; `warnings` are for people."""
        try:
            report = _known(lambda: self.kit.enrolment.add(identity, [picture]))
        except EnrolmentError as error:
            return {
                "accepted": False,
                "reasons": [refusal.message for refusal in error.refused],
                "codes": [one.reason for one in error.refused],
            }
        return {"accepted": True, "reasons": [], "warnings": list(report.warnings), "identity": asdict(report.identity)}

    def pictures(self, identity: str) -> Sequence[bytes]:
        """The enrolled pictures, JPEG."""
        _known(lambda: self.kit.gallery.get(identity))
        return self.kit.gallery.pictures(identity)

    def change(self, identity: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Other values for any of name, consent and expires_at (Unix seconds; None: never)."""
        changed: Identity = _known(lambda: self.kit.gallery.change(identity, **changes))
        return asdict(changed)

    def erase(self, identity: str) -> None:
        """Templates, pictures, matching clusters, and the name in the local history. Waits for no model."""
        with self._gallery() as gallery:
            _known(lambda: erase(gallery, self._outbox, identity))

    @contextmanager
    def _gallery(self) -> Iterator[Gallery]:
        if self._kit is not None:
            yield self._kit.gallery
        else:
            with closing(open_gallery(self._settings)) as gallery:
                yield gallery

    def clusters(self) -> list[dict[str, Any]]:
        """Unknown persons, the newest first; no templates."""
        return [_cluster(cluster) for cluster in self.kit.gallery.clusters.all()]

    def name_cluster(self, cluster: str, name: str, consent: str, expires_at: float | None) -> dict[str, Any]:
        """Make an identity of an unknown person."""
        return asdict(_known(lambda: self.kit.gallery.name_cluster(cluster, name, consent, expires_at)))

    def erase_cluster(self, cluster: str) -> None:
        """Forget an unknown person."""
        if not self.kit.gallery.clusters.erase(cluster):
            raise UnknownError(f"there is no cluster {cluster!r}")

    def recognise(self, picture: bytes) -> list[dict[str, Any]]:
        """Every face of a photograph, with the nearest identity if it is near enough."""
        image = decode(picture)
        kit = self.kit
        faces = kit.photograph(image)
        if not len(faces):
            return []
        vectors = kit.embed([kit.embedder.chip(image, points) for points in faces.landmarks])
        answers = []
        for box, score, vector in zip(faces.boxes.tolist(), faces.scores.tolist(), vectors, strict=True):
            ranking = kit.gallery.candidates.rank(vector)
            known = ranking.distance is not None and ranking.distance <= kit.point.identify
            answers.append(
                {
                    "box": {**dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True)), "probability": score},
                    "decision": "known" if known else "unknown",
                    "identity": ranking.identity if known else None,
                    "name": ranking.name if known else None,
                    "distance": ranking.distance,
                    "second_best": ranking.second_best,
                    "threshold": kit.point.identify,
                }
            )
        return answers


def _known(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except UnknownIdentityError as error:
        raise UnknownError(str(error)) from error


def _cluster(cluster: Cluster) -> dict[str, Any]:
    return {"id": cluster.id, "sightings": cluster.sightings, "created_at": cluster.created_at, "seen_at": cluster.seen_at}
