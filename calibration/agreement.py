"""Whether an engine decides as its FP32 twin: what it finds on a clip, and whom it takes for one person on labelled pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from calibration.errors import CalibrationError, SamplesError
from calibration.labels import read_labelled_pairs
from calibration.stills import find_faces, largest
from engines.available import installed
from engines.card import ModelCard
from engines.errors import EngineError
from engines.fit import decoder_params
from engines.model import EngineOptions, FaceDetector, FaceEmbedder, Workshop, load_detector
from engines.parity import shared, too_far
from engines.preprocess import Image
from engines.registry import DECODERS, resolve

T = TypeVar("T", FaceDetector, FaceEmbedder)

LOSS = 0.003
"""By how much the accuracy on pairs may differ: 0.3 points."""


@dataclass(frozen=True, slots=True)
class OnClip:
    """Faces that FP32 finds, that the candidate finds, and of FP32's those that both find, with the mean IoU of these two boxes.

    `precision`: what the candidate computes in, as the runtime says, too. `why`: what is further from FP32 than the card allows, or empty.
    """

    backend: str
    precision: str
    frames: int
    faces: int
    found: int
    both: int
    mean_overlap: float
    why: str


@dataclass(frozen=True, slots=True)
class OnPairs:
    """Accuracy at the card's `verify` and equal error rate of FP32 and of the candidate, and how many pairs they decide otherwise."""

    backend: str
    precision: str
    pairs: int
    differing: int
    fp32: dict[str, float]
    candidate: dict[str, float]
    why: str


def backends(card: ModelCard, precision: str) -> list[str]:
    """Those here that compute the model in `precision`. Raises CalibrationError where there is none."""
    names = [one.name for one in installed(card) if one.units() and precision in one.precisions(one.units()[0])]
    if not names:
        raise CalibrationError(f"{card.name}: no runtime here computes it in {precision}; `almena doctor` says what to install")
    return names


def on_clip(card: ModelCard, options: EngineOptions, names: list[str], precision: str, frames: Iterable[Image]) -> list[OnClip]:
    """A detector's decisions on `frames`, (H, W, 3) uint8 BGR, by backend. Raises SamplesError where FP32 sees no face, EngineError."""
    faces, found = Counter[str](), Counter[str]()
    overlaps: dict[str, list[float]] = {name: [] for name in names}
    seen = 0
    with ExitStack() as opened:
        twins = {name: opened.enter_context(_twins(FaceDetector, card, replace(options, backend=name), precision)) for name in names}
        for frame in frames:
            seen += 1
            for name, (reference, candidate) in twins.items():
                want, got = reference.detect(frame), candidate.detect(frame)
                faces[name] += len(want)
                found[name] += len(got)
                overlaps[name] += shared(want, got)
    if not all(faces[name] for name in names):
        raise SamplesError(f"{card.name}: FP32 finds no face in {seen} frames, so there is nothing to compare; take a clip with people")
    results = []
    for name in names:
        mean = float(np.mean(overlaps[name] or [0.0]))
        why = too_far(card.allowance, mean_overlap=mean, faces=faces[name], found=found[name])
        results.append(OnClip(name, precision, seen, faces[name], found[name], len(overlaps[name]), mean, why))
    return results


def on_pairs(
    card: ModelCard, options: EngineOptions, names: list[str], precision: str, path: Path, root: Path, detector: str
) -> list[OnPairs]:
    """An embedder's decisions on the pairs of a CSV, by backend; the FP32 `detector` finds the faces. Raises LabelsError, EngineError."""
    params = decoder_params(card)
    decoder = resolve(DECODERS, card.decoder.name, "decoder")(params)
    results = []
    with ExitStack() as opened:
        finder = load_detector(detector, replace(options, backend="auto", precision="fp32"))
        opened.callback(finder.close)
        twins = {name: opened.enter_context(_twins(FaceEmbedder, card, replace(options, backend=name), precision)) for name in names}
        first = next(iter(twins.values()))[0]

        def chip(picture: Image) -> Image | None:
            faces = find_faces(finder, picture)
            return first.chip(picture, faces.landmarks[largest(faces)]) if len(faces) else None

        labelled = read_labelled_pairs(card, decoder, path, chip, root)
        for name, (reference, candidate) in twins.items():
            want, got = labelled.distances(reference.engine), labelled.distances(candidate.engine)
            differing = int(np.sum((want <= labelled.threshold) != (got <= labelled.threshold)))
            fp32, other = labelled.figures(want), labelled.figures(got)
            off = abs(fp32["accuracy"] - other["accuracy"])
            why = f"the accuracy differs by {100 * off:.2f} points, allowed are {100 * LOSS:g}" if off > LOSS + 1e-9 else ""
            results.append(OnPairs(name, precision, len(labelled.same), differing, fp32, other, why))
    return results


@contextmanager
def _twins(kind: Callable[[Workshop], T], card: ModelCard, options: EngineOptions, precision: str) -> Iterator[tuple[T, T]]:
    """The model at FP32 and at that precision. Raises EngineError where the runtime computes in another one."""
    with ExitStack() as opened:
        twins = []
        for wanted in ("fp32", precision):
            twins.append(kind(Workshop(card, replace(options, precision=wanted))))
            opened.callback(twins[-1].close)
            if (computed := twins[-1].engine.precision) != wanted:
                raise EngineError(f"{card.name}: asked for {wanted}, {options.backend} computes in {computed}: nothing to compare")
        yield twins[0], twins[1]
