"""How close an engine is to its FP32 twin, on pictures that anyone has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from engines.backends.base import IMAGE
from engines.base import Engine
from engines.card import Allowance, ModelCard
from engines.decoders.base import DetectionDecoder, overlaps
from engines.decoders.classification import ClassificationDecoder
from engines.decoders.embedding import EmbeddingDecoder
from engines.fetch import assets
from engines.preprocess import Image, aligned, fed, letterbox, opencv
from engines.results import F32, Detections


class Parity(BaseModel):
    """What the comparison gave; `why` is empty where it passed. Which of the figures there are depends on the task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pictures: Literal["portraits", "none"]
    count: int
    faces: int = 0
    score: float | None = None
    overlap: float | None = None
    distance: float | None = None
    probability: float | None = None
    agreement: float | None = None
    why: str = ""


Judge = Callable[[Engine, Engine], Parity]
"""Called with the FP32 engine and the candidate."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """`images` with the five landmarks of the face in each."""

    images: tuple[Image, ...]
    landmarks: tuple[F32, ...]


def portraits() -> list[str]:
    """Names of the assets that engines are compared on: public-domain portraits of one face each."""
    return [name for name, asset in assets().items() if asset.landmarks]


def pictures(models_dir: Path) -> Pictures | None:
    """The portraits, or None unless all of them lie in `models_dir`."""
    cv2 = opencv()
    images, landmarks = [], []
    for name in portraits():
        path = models_dir / assets()[name].filename
        image = cv2.imread(str(path)) if path.is_file() else None
        if image is None:
            return None
        images.append(np.asarray(image, np.uint8))
        landmarks.append(np.array(assets()[name].landmarks, np.float32))
    return Pictures(tuple(images), tuple(landmarks))


def _unseen() -> Parity:
    names = " ".join(portraits())
    why = f"it cannot be compared with FP32 without the portraits: run `almena models fetch {names}` and start again"
    return Parity(pictures="none", count=0, why=why)


def detector_judge(card: ModelCard, decoder: DetectionDecoder, models_dir: Path) -> Judge:
    """Compares faces found in the pictures, whole and at half size; where there are none, the scores of all cells."""
    threshold = card.thresholds.score
    assert threshold is not None

    def judge(reference: Engine, candidate: Engine) -> Parity:
        seen = pictures(models_dir)
        if seen is None:
            return _unseen()
        worst, least, faces, count = 0.0, 1.0, 0, 0
        for image in seen.images:
            for picture in (image, np.ascontiguousarray(image[::2, ::2])):
                tensor = letterbox(picture, decoder.width, decoder.height, card.input.pad)[0][None]
                want, got = reference.infer({IMAGE: tensor}), candidate.infer({IMAGE: tensor})
                expected = decoder.decode(want, threshold)
                missed = _compared(expected, decoder.decode(got, threshold / 2))
                made_up = _compared(decoder.decode(got, threshold), decoder.decode(want, threshold / 2))
                score = max(missed[0], made_up[0])
                if not len(expected):
                    score = float(np.abs(decoder.scores(want) - decoder.scores(got)).max())
                worst, least, faces, count = max(worst, score), min(least, missed[1], made_up[1]), faces + len(expected), count + 1
        why = _too_far(card.allowance, score=worst, overlap=least)
        return Parity(pictures="portraits", count=count, faces=faces, score=worst, overlap=least, why=why)

    return judge


def _compared(these: Detections, those: Detections) -> tuple[float, float]:
    """The largest change of score and the least overlap, each of these faces with its best partner among those."""
    if not len(these):
        return 0.0, 1.0
    if not len(those):
        return float(these.scores.max()), 0.0
    table = overlaps(these.boxes, those.boxes)
    partner = table.argmax(1)
    return float(np.abs(these.scores - those.scores[partner]).max()), float(table.max(1).min())


def embedder_judge(card: ModelCard, decoder: EmbeddingDecoder, models_dir: Path) -> Judge:
    """Compares templates of the faces in the pictures: as they are, mirrored, and dark."""
    assert card.alignment is not None
    template = np.array(card.alignment.template, np.float32)
    size = card.input.sizes[0][0]

    def judge(reference: Engine, candidate: Engine) -> Parity:
        seen = pictures(models_dir)
        if seen is None:
            return _unseen()
        chips = [aligned(image, marks, template, size) for image, marks in zip(seen.images, seen.landmarks, strict=True)]
        chips += [np.ascontiguousarray(chip[:, ::-1]) for chip in chips] + [chip // 3 for chip in chips]
        batch = reference.inputs[0].shape[0] or 1
        distance = 0.0
        for start in range(0, len(chips), batch):
            rows = {IMAGE: np.stack([chips[(start + row) % len(chips)] for row in range(batch)])}
            apart = decoder.decode(reference.infer(rows)) - decoder.decode(candidate.infer(rows))
            distance = max(distance, float(np.linalg.norm(apart, axis=1).max()))
        why = _too_far(card.allowance, distance=distance)
        return Parity(pictures="portraits", count=len(chips), distance=distance, why=why)

    return judge


def classifier_judge(card: ModelCard, decoder: ClassificationDecoder, models_dir: Path) -> Judge:
    """Compares the probabilities of the pictures: whole, and in quarters."""

    def judge(reference: Engine, candidate: Engine) -> Parity:
        seen = pictures(models_dir)
        if seen is None:
            return _unseen()
        batch, height, width = (size or 1 for size in reference.inputs[0].shape[:3])
        fitted = [fed(part, card.input, width, height) for image in seen.images for part in (image, *_quarters(image))]
        apart, agreeing = [], 0
        for start in range(0, len(fitted), batch):
            rows = {IMAGE: np.stack([fitted[(start + row) % len(fitted)] for row in range(batch)])}
            want, got = decoder.decode(reference.infer(rows)), decoder.decode(candidate.infer(rows))
            used = min(batch, len(fitted) - start)
            apart += list(np.abs(want - got).max(1)[:used])
            agreeing += int((want.argmax(1) == got.argmax(1))[:used].sum())
        probability, agreement = float(np.mean(apart)), agreeing / len(fitted)
        why = _too_far(card.allowance, probability=probability, agreement=agreement)
        return Parity(pictures="portraits", count=len(fitted), probability=probability, agreement=agreement, why=why)

    return judge


def _quarters(image: Image) -> tuple[Image, ...]:
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    return image[:rows, :columns], image[:rows, columns:], image[rows:, :columns], image[rows:, columns:]


def _too_far(
    allowance: Allowance,
    score: float = 0.0,
    overlap: float = 1.0,
    distance: float = 0.0,
    probability: float = 0.0,
    agreement: float = 1.0,
) -> str:
    if allowance.score is not None and score > allowance.score:
        return f"scores differ by {score:.3f}, allowed are {allowance.score}"
    if allowance.overlap is not None and overlap < allowance.overlap:
        return f"boxes overlap by {overlap:.3f} only, required are {allowance.overlap}"
    if allowance.distance is not None and distance > allowance.distance:
        return f"templates are {distance:.4f} apart, allowed are {allowance.distance}"
    if allowance.probability is not None and probability > allowance.probability:
        return f"probabilities differ by {probability:.4f} on average, allowed are {allowance.probability}"
    if allowance.agreement is not None and agreement < allowance.agreement:
        return f"answers agree on {agreement:.1%} of the pictures, required are {allowance.agreement:.1%}"
    return ""
