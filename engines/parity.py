"""How close an engine is to its FP32 twin, on pictures that anyone has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from engines.backends.base import IMAGE
from engines.base import Engine
from engines.card import Allowance, ModelCard
from engines.decoders.base import DetectionDecoder, overlaps
from engines.decoders.embedding import EmbeddingDecoder
from engines.fetch import assets
from engines.preprocess import Image, aligned, letterbox, opencv
from engines.results import F32, Detections


class Parity(BaseModel):
    """What the comparison gave; `why` is empty where it passed. Which of the figures there are depends on the task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: str
    count: int
    faces: int = 0
    score: float | None = None
    overlap: float | None = None
    distance: float | None = None
    why: str = ""


Judge = Callable[[Engine, Engine], Parity]
"""Called with the FP32 engine and the candidate."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """`images` with the five landmarks of the face in each."""

    kind: str
    images: tuple[Image, ...]
    landmarks: tuple[F32, ...]


def pictures(models_dir: Path) -> Pictures:
    """The public-domain portraits that lie in `models_dir`, or a synthetic picture where none does."""
    cv2 = opencv()
    images, landmarks = [], []
    for asset in assets().values():
        image = cv2.imread(str(models_dir / asset.filename)) if (models_dir / asset.filename).is_file() else None
        if image is not None and asset.landmarks:
            images.append(np.asarray(image, np.uint8))
            landmarks.append(np.array(asset.landmarks, np.float32))
    if images:
        return Pictures("portraits", tuple(images), tuple(landmarks))
    return Pictures("synthetic", (_synthetic(),), (np.array([[200, 170], [300, 170], [250, 230], [205, 290], [295, 290]], np.float32),))


def _synthetic() -> Image:
    """Smooth coloured noise, always the same."""
    cv2 = opencv()
    noise = np.random.default_rng(20).integers(0, 256, (24, 32, 3), np.uint8)
    return np.asarray(cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC), np.uint8)


def detector_judge(card: ModelCard, decoder: DetectionDecoder, models_dir: Path) -> Judge:
    """Compares faces found in the pictures, whole and at half size; without faces, the scores of all cells."""
    threshold = card.thresholds.score
    assert threshold is not None

    def judge(reference: Engine, candidate: Engine) -> Parity:
        seen = pictures(models_dir)
        worst, least, faces, count = 0.0, 1.0, 0, 0
        for image in seen.images:
            for picture in (image, np.ascontiguousarray(image[::2, ::2])):
                tensor = letterbox(picture, decoder.width, decoder.height, card.input.pad)[0][None]
                want, got = reference.infer({IMAGE: tensor}), candidate.infer({IMAGE: tensor})
                expected, found = decoder.decode(want, threshold), decoder.decode(got, threshold / 2)
                score, overlap = _compared(expected, found)
                if not len(expected):
                    score = float(np.abs(decoder.scores(want) - decoder.scores(got)).max())
                worst, least, faces, count = max(worst, score), min(least, overlap), faces + len(expected), count + 1
        why = _too_far(card.allowance, score=worst, overlap=least if faces else None)
        return Parity(pictures=seen.kind, count=count, faces=faces, score=worst, overlap=least if faces else None, why=why)

    return judge


def _compared(expected: Detections, found: Detections) -> tuple[float, float]:
    """The largest change of score and the least overlap, each expected face with its best partner."""
    if not len(expected):
        return 0.0, 1.0
    if not len(found):
        return float(expected.scores.max()), 0.0
    table = overlaps(expected.boxes, found.boxes)
    partner = table.argmax(1)
    return float(np.abs(expected.scores - found.scores[partner]).max()), float(table.max(1).min())


def embedder_judge(card: ModelCard, decoder: EmbeddingDecoder, models_dir: Path) -> Judge:
    """Compares templates of the faces in the pictures: as they are, mirrored, and dark."""
    assert card.alignment is not None
    template = np.array(card.alignment.template, np.float32)
    size = card.input.sizes[0][0]

    def judge(reference: Engine, candidate: Engine) -> Parity:
        seen = pictures(models_dir)
        chips = [aligned(image, marks, template, size) for image, marks in zip(seen.images, seen.landmarks, strict=True)]
        chips += [np.ascontiguousarray(chip[:, ::-1]) for chip in chips] + [chip // 3 for chip in chips]
        distance = max(float(np.linalg.norm(_template(reference, decoder, chip) - _template(candidate, decoder, chip))) for chip in chips)
        why = _too_far(card.allowance, distance=distance)
        return Parity(pictures=seen.kind, count=len(chips), distance=distance, why=why)

    return judge


def _template(engine: Engine, decoder: EmbeddingDecoder, chip: Image) -> F32:
    vectors = decoder.decode(engine.infer({IMAGE: np.repeat(chip[None], engine.inputs[0].shape[0] or 1, 0)}))
    return np.asarray(vectors[0], np.float32)


def _too_far(allowance: Allowance, score: float = 0.0, overlap: float | None = None, distance: float = 0.0) -> str:
    if allowance.score is not None and score > allowance.score:
        return f"scores differ by {score:.3f}, allowed are {allowance.score}"
    if allowance.overlap is not None and overlap is not None and overlap < allowance.overlap:
        return f"boxes overlap by {overlap:.3f} only, required are {allowance.overlap}"
    if allowance.distance is not None and distance > allowance.distance:
        return f"templates are {distance:.4f} apart, allowed are {allowance.distance}"
    return ""
