"""Identity enrolment: pictures of a person become templates, and those that would do harm are refused with a reason."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.datatypes import Image
from agent.errors import AlmenaError
from agent.vision.gallery import Gallery, Identity, Picture
from agent.vision.gallery_pictures import keepsake
from agent.vision.gallery_store import GalleryError
from agent.vision.pictures import PictureError, decode
from agent.vision.recognition import sharpness
from calibration.stills import Detector, find_faces, largest
from engines.results import Embeddings

log = logging.getLogger(__name__)

Reason = Literal["not-a-picture", "no-face", "several-faces", "too-small", "blurred", "turned-away"]

LEAST_SIDE = 48.0
"""Pixels of the shorter side of a face."""
RIVAL = 0.35
"""Another face of this many times the largest face's side makes it unclear who is meant; smaller ones are the background's."""
LEAST_SHARP = 12.0
"""Variance of the Laplacian of the aligned chip."""
MOST_TURNED = 0.32
"""The nose tip's distance from the middle between the eyes, in eye distances; about 40 degrees."""
SHIFTS, SHIFT = 4, 0.02
"""How often the landmarks of a picture are shifted for its template, and how far (standard deviation, in sides of the face)."""


class Embedder(Protocol):
    """What turns faces into templates."""

    model_id: str

    def chip(self, image: Image, landmarks: NDArray[np.float32]) -> Image:
        """The aligned (S, S, 3) uint8 BGR chip of a face by its (5, 2) landmarks."""
        ...

    def embed(self, chips: NDArray[np.uint8]) -> Embeddings:
        """Templates of (N, S, S, 3) uint8 chips."""
        ...


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a picture was not taken. `index` counts the pictures handed in from 0."""

    index: int
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What came of an enrolment. `warnings` are for people: pictures that were taken but look wrong."""

    identity: Identity
    accepted: int
    refused: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()


class EnrolmentError(AlmenaError):
    """No picture could be taken; `refused` (and for scripts `reasons`) says why for each. `names`: what the pictures are called."""

    def __init__(self, refused: Sequence[Refusal], names: Sequence[object] = ()) -> None:
        reasons = "; ".join(f"{names[one.index] if names else f'picture {one.index + 1}'}: {one.message}" for one in refused)
        super().__init__(f"no picture could be used: {reasons or 'none was given'}")
        self.refused = tuple(refused)
        self.reasons = [asdict(one) for one in refused]


class _Unfit(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class Enrolment:
    """Enrols with one detector and one embedder into one gallery, whose embedder it must be."""

    def __init__(self, detector: Detector, embedder: Embedder, gallery: Gallery) -> None:
        if gallery.model != embedder.model_id:
            raise GalleryError(f"the gallery is open for {gallery.model}, not for the embedder {embedder.model_id}")
        self._detector = detector
        self._embedder = embedder
        self.gallery = gallery

    def enrol(self, name: str, images: Sequence[bytes], consent: str = "", expires_at: float | None = None) -> Report:
        """A new identity from JPEG or PNG bytes. Raises EnrolmentError if none can be used, GalleryError if the name is taken."""
        pictures, refused = self._taken(images)
        warnings = self._warnings(pictures, None)
        return Report(self.gallery.add(name, pictures, consent, expires_at), len(pictures), refused, warnings)

    def add(self, identity: str, images: Sequence[bytes]) -> Report:
        """More pictures for an identity (its id). Raises EnrolmentError if none can be used, UnknownIdentityError."""
        self.gallery.get(identity)
        pictures, refused = self._taken(images)
        warnings = self._warnings(pictures, identity)
        return Report(self.gallery.add_pictures(identity, pictures), len(pictures), refused, warnings)

    def renew(self) -> int:
        """Templates for kept pictures that the embedder in use has not seen, after a change of embedder; how many were made."""
        made = 0
        for picture, data in self.gallery.without_template():
            try:
                self.gallery.add_template(picture, self._look(decode(data), strict=False).vector)
                made += 1
            except (_Unfit, PictureError) as error:
                log.warning("the enrolled picture %s cannot be read by %s: %s", picture, self._embedder.model_id, error)
        return made

    def _taken(self, images: Sequence[bytes]) -> tuple[list[Picture], tuple[Refusal, ...]]:
        pictures: list[Picture] = []
        refused: list[Refusal] = []
        for index, data in enumerate(images):
            try:
                pictures.append(self._look(decode(data), strict=True))
            except PictureError as error:
                refused.append(Refusal(index, "not-a-picture", str(error)))
            except _Unfit as error:
                refused.append(Refusal(index, error.reason, str(error)))
        if not pictures:
            raise EnrolmentError(refused)
        return pictures, tuple(refused)

    def _look(self, image: Image, strict: bool) -> Picture:
        """The template of the only face; `strict` also asks for quality."""
        faces = find_faces(self._detector, image)
        if not len(faces):
            raise _Unfit("no-face", "no face was found")
        best = largest(faces)
        sides = np.min(faces.boxes[:, 2:] - faces.boxes[:, :2], axis=1)
        rivals = int(np.sum(sides >= RIVAL * sides[best])) - 1
        chip = self._embedder.chip(image, faces.landmarks[best])
        if strict and rivals > 0:
            raise _Unfit("several-faces", f"{rivals + 1} faces are in the picture: crop it to the person who is meant")
        if strict:
            _require_quality(float(sides[best]), faces.landmarks[best], chip)
        return Picture(keepsake(image, faces.boxes[best]), self._template(image, faces.landmarks[best], float(sides[best])))

    def _template(self, image: Image, landmarks: NDArray[np.float32], side: float) -> NDArray[np.float32]:
        """Of one picture: the mean over slightly shifted chips and their mirror images, as dlib's `num_jitters` does. It tells less of how
        exactly this picture was taken, and so lies nearer to other views of the same person."""
        shifts = np.random.default_rng(0).normal(0.0, SHIFT * side, (SHIFTS, *landmarks.shape)).astype(np.float32)
        chips = np.stack([self._embedder.chip(image, landmarks + shift) for shift in shifts])
        mean: NDArray[np.float32] = self._embedder.embed(np.concatenate([chips, chips[:, :, ::-1]])).vectors.mean(axis=0)
        return mean

    def _warnings(self, pictures: Sequence[Picture], identity: str | None) -> tuple[str, ...]:
        point = self.gallery.point
        warnings: list[str] = []
        for number, picture in enumerate(pictures, 1):
            other = self.gallery.nearest_other(picture.vector, identity)
            if point and other and other[1] <= point.identify:
                warnings.append(f"used picture {number} looks like {other[0]}, who is already enrolled (distance {other[1]:.2f})")
        vectors = np.stack([picture.vector for picture in pictures])
        spread = float(np.linalg.norm(vectors[:, None] - vectors[None], axis=2).max())
        if point and spread > point.stranger:
            warnings.append(f"the pictures seem to show different persons (largest distance {spread:.2f})")
        return tuple(warnings)


def _require_quality(side: float, landmarks: NDArray[np.float32], chip: Image) -> None:
    if side < LEAST_SIDE:
        raise _Unfit("too-small", f"the face is {side:.0f} pixels wide; at least {LEAST_SIDE:.0f} are needed")
    eyes = landmarks[1] - landmarks[0]
    turned = abs(float(np.dot(landmarks[2] - landmarks[:2].mean(axis=0), eyes))) / max(float(np.dot(eyes, eyes)), 1e-6)
    if turned > MOST_TURNED:
        raise _Unfit("turned-away", "the face is turned away: take one that looks towards the camera")
    sharp = sharpness(chip)
    if sharp < LEAST_SHARP:
        raise _Unfit("blurred", f"the face is blurred (sharpness {sharp:.0f}; at least {LEAST_SHARP:.0f} is needed)")
