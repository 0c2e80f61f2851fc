"""How close an engine is to its FP32 twin, on pictures that anyone has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from engines.backends.base import IMAGE
from engines.base import Engine, Tensor
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

    pictures: Literal["portraits", "samples", "none"]
    """`samples`: pictures of the device's own, kept out of a calibration's ranges; they count without the worst of twenty."""
    count: int
    faces: int = 0
    score: float | None = None
    overlap: float | None = None
    mean_overlap: float | None = None
    found: int | None = None
    """Faces that the candidate finds where FP32 finds `faces`."""
    distance: float | None = None
    probability: float | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    why: str = ""
    note: str = ""
    """Why there was nothing to compare with; all figures are None then."""


def without_fp32(precision: str) -> Parity | None:
    """Of an engine that was ordered at FP32 and computes in `precision`: None where that is FP32, else the file itself is less."""
    if precision == "fp32":
        return None
    return Parity(pictures="none", count=0, note=f"the file itself is {precision}; it was not compared with an FP32 model")


MATCHED = 0.5
"""The IoU above which two engines' boxes are the same face."""

Judge = Callable[[Engine, Engine], Parity]
"""Called with the FP32 engine and the candidate."""


def against_fp32(judge: Judge) -> Judge:
    """The same judge; where the reference is not FP32, because the model's file is less itself, whatever is made of it is refused."""

    def judged(reference: Engine, candidate: Engine) -> Parity:
        if reference.precision == "fp32":
            return judge(reference, candidate)
        why = f"the file itself is {reference.precision} and runs as it is (`fp32` or `auto`), nothing else can be made of it"
        return Parity(pictures="none", count=0, why=why)

    return judged


@dataclass(frozen=True, slots=True)
class Pictures:
    """`images` with the five landmarks of the face in each."""

    images: tuple[Image, ...]
    landmarks: tuple[F32, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a detector's two engines on a picture: the largest change of score, the least overlap, the faces that each finds, and the
    overlaps of those that both find.
    """

    score: float
    overlap: float
    faces: int
    found: int
    overlaps: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """Of a classifier's two engines: by picture the largest change of any class's probability and whether the answer is the same."""

    apart: F32
    same: NDArray[np.bool_]
    sqnr_db: float
    """The raw outputs' variation from picture to picture over their distance from FP32's; what is the same of all pictures says nothing."""


def portraits() -> list[str]:
    """Names of the assets that engines are compared on: public-domain portraits of one face each."""
    return [name for name, asset in assets().items() if asset.landmarks]


def fetched(models_dir: Path) -> bool:
    """Whether all portraits lie in `models_dir`."""
    return all((models_dir / assets()[name].filename).is_file() for name in portraits())


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

    def judge(reference: Engine, candidate: Engine) -> Parity:
        seen = pictures(models_dir)
        if seen is None:
            return _unseen()
        shown = [part for image in seen.images for part in (image, np.ascontiguousarray(image[::2, ::2]))]
        canvases = [letterbox(picture, decoder.width, decoder.height, card.input.pad)[0] for picture in shown]
        found = detector_differences(card, decoder, reference, candidate, canvases)
        worst, least = max(one.score for one in found), min(one.overlap for one in found)
        why = too_far(card.allowance, score=worst, overlap=least)
        faces = sum(one.faces for one in found)
        return Parity(pictures="portraits", count=len(found), faces=faces, score=worst, overlap=least, why=why)

    return judge


def detector_differences(
    card: ModelCard, decoder: DetectionDecoder, reference: Engine, candidate: Engine, canvases: Sequence[Image]
) -> list[Difference]:
    """By picture, (H, W, C) as the engines take it."""
    threshold = card.thresholds.score
    assert threshold is not None
    found = []
    for want, got in zip(one_by_one(reference, canvases), one_by_one(candidate, canvases), strict=True):
        expected = decoder.decode(want, threshold)
        missed = _compared(expected, decoder.decode(got, threshold / 2))
        there = decoder.decode(got, threshold)
        made_up = _compared(there, decoder.decode(want, threshold / 2))
        score = max(missed[0], made_up[0])
        if not len(expected):
            score = float(np.abs(decoder.scores(want) - decoder.scores(got)).max())
        found.append(Difference(score, min(missed[1], made_up[1]), len(expected), len(there), shared(expected, there)))
    return found


def shared(these: Detections, those: Detections) -> tuple[float, ...]:
    """The IoU of each of these faces that is also among those."""
    best = overlaps(these.boxes, those.boxes).max(1) if len(these) and len(those) else np.zeros(0)
    return tuple(best[best > MATCHED].tolist())


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
        distance = float(template_distances(decoder, reference, candidate, chips).max())
        why = too_far(card.allowance, distance=distance)
        return Parity(pictures="portraits", count=len(chips), distance=distance, why=why)

    return judge


def template_distances(decoder: EmbeddingDecoder, reference: Engine, candidate: Engine, chips: Sequence[Image]) -> F32:
    """How far the two engines' templates of chips, (S, S, 3) each, are apart; at least one for each chip, in every row of a batch."""
    want, got = (np.concatenate([decoder.decode(rows) for rows in batches(engine, chips)]) for engine in (reference, candidate))
    return np.asarray(np.linalg.norm(want - got, axis=1), np.float32)


def classifier_judge(card: ModelCard, decoder: ClassificationDecoder, models_dir: Path) -> Judge:
    """Compares the probabilities of the pictures: whole, and in quarters."""

    def judge(reference: Engine, candidate: Engine) -> Parity:
        seen = pictures(models_dir)
        if seen is None:
            return _unseen()
        height, width = (size or 1 for size in reference.inputs[0].shape[1:3])
        fitted = [fed(part, card.input, width, height) for image in seen.images for part in (image, *_quarters(image))]
        return classifier_parity(card.allowance, answers(decoder, reference, candidate, fitted), "portraits")

    return judge


def classifier_parity(allowance: Allowance, said: Answers, shown: Literal["portraits", "samples"]) -> Parity:
    """What the comparison of a classifier's engines gave, and whether that is allowed."""
    probability, agreement = float(said.apart.mean()), float(said.same.mean())
    why = too_far(allowance, probability=probability, sqnr_db=said.sqnr_db, agreement=agreement)
    return Parity(pictures=shown, count=len(said.same), probability=probability, sqnr_db=said.sqnr_db, agreement=agreement, why=why)


def answers(decoder: ClassificationDecoder, reference: Engine, candidate: Engine, fitted: Sequence[Image]) -> Answers:
    """Of pictures, (H, W, C) each."""
    raw, said = [], []
    for engine in (reference, candidate):
        given = [(rows[decoder.params.output].copy(), decoder.decode(rows)) for rows in batches(engine, fitted)]
        raw.append(np.concatenate([one[0].reshape(len(one[1]), -1) for one in given])[: len(fitted)].astype(np.float64))
        said.append(np.concatenate([one[1] for one in given])[: len(fitted)])
    signal, noise = float(np.square(raw[0] - raw[0].mean(0)).sum()), float(np.square(raw[1] - raw[0]).sum())
    apart = np.asarray(np.abs(said[0] - said[1]).max(1), np.float32)
    return Answers(apart, said[0].argmax(1) == said[1].argmax(1), 10 * math.log10(max(signal, 1e-20) / max(noise, signal * 1e-20, 1e-20)))


def batches(engine: Engine, pictures: Sequence[Image]) -> Iterator[dict[str, Tensor]]:
    """The outputs for `pictures`, as many rows at once as the engine takes. The last batch is filled up from the first pictures."""
    size = engine.inputs[0].shape[0] or 1
    for start in range(0, len(pictures), size):
        rows = [pictures[(start + row) % len(pictures)] for row in range(size)]
        yield engine.infer({IMAGE: np.stack(rows)})


def one_by_one(engine: Engine, pictures: Sequence[Image]) -> Iterator[dict[str, Tensor]]:
    """The outputs for each of `pictures`, in batches of one."""
    size = engine.inputs[0].shape[0] or 1
    for start, outputs in enumerate(batches(engine, pictures)):
        for row in range(min(size, len(pictures) - start * size)):
            yield outputs if size == 1 else {name: tensor[row : row + 1] for name, tensor in outputs.items()}


def _quarters(image: Image) -> tuple[Image, ...]:
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    return image[:rows, :columns], image[:rows, columns:], image[rows:, :columns], image[rows:, columns:]


def too_far(
    allowance: Allowance,
    score: float = 0.0,
    overlap: float = 1.0,
    distance: float = 0.0,
    probability: float = 0.0,
    sqnr_db: float = np.inf,
    agreement: float = 1.0,
    mean_overlap: float = 1.0,
    faces: int = 0,
    found: int = 0,
) -> str:
    """What is further from FP32 than allowed, as a sentence with figures; empty where nothing is."""
    if allowance.score is not None and score > allowance.score:
        return f"scores differ by {score:.3f}, allowed are {allowance.score}"
    if allowance.overlap is not None and overlap < allowance.overlap:
        return f"boxes overlap by {overlap:.3f} only, required are {allowance.overlap}"
    if allowance.mean_overlap is not None and mean_overlap < allowance.mean_overlap:
        return f"boxes overlap by {mean_overlap:.4f} on average, required are {allowance.mean_overlap}"
    if allowance.faces is not None and abs(found - faces) > max(1.0, allowance.faces * faces):
        return f"{found} faces are found where FP32 finds {faces}, allowed is a change of {allowance.faces:.0%} or one"
    if allowance.distance is not None and distance > allowance.distance:
        return f"templates are {distance:.4f} apart, allowed are {allowance.distance}"
    if allowance.probability is not None and probability > allowance.probability:
        return f"probabilities differ by {probability:.4f} on average, allowed are {allowance.probability}"
    if allowance.sqnr_db is not None and sqnr_db < allowance.sqnr_db:
        return f"the outputs are {sqnr_db:.1f} dB over the noise, required are {allowance.sqnr_db:.4g}"
    if allowance.agreement is not None and agreement < allowance.agreement:
        return f"answers agree on {agreement:.1%} of the pictures, required are {allowance.agreement:.1%}"
    return ""
