"""How much quantisation noise there is in a model's outputs, counted where the outputs mean something."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.card import ModelCard
from engines.decoders.base import MOST, DetectionDecoder, suppress
from engines.registry import DECODERS, resolve
from engines.results import F32

Outputs = Sequence[Mapping[str, F32]]
"""By sample, by output."""
Measure = Callable[[Outputs, Outputs], float]
"""How far a candidate's outputs (second) are from the FP32 model's (first), as a power: twice as far is four times as much."""


def outputs(model: Any, samples: Sequence[F32]) -> list[dict[str, F32]]:
    """What an ONNX model says of each sample, on ONNX Runtime's CPU provider."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    own, names = session.get_inputs()[0].name, [value.name for value in session.get_outputs()]
    return [dict(zip(names, session.run(names, {own: sample}), strict=True)) for sample in samples]


def measure_of(card: ModelCard) -> Measure:
    """For detectors how far faces move, in units of what the card allows; for all other models the noise of the raw outputs."""
    if card.task != "face-detection":
        return raw_noise
    kind = resolve(DECODERS, card.decoder.name, "decoder")
    width, height = card.input.sizes[0]
    decoder: DetectionDecoder = kind(kind.Params(**card.decoder.params), height, width)
    return lambda reference, candidate: _detector_noise(card, decoder, reference, candidate)


def raw_noise(reference: Outputs, candidate: Outputs) -> float:
    """Noise over signal of each output over all samples; the mean over the outputs."""
    shares = [_share([given[name] for given in reference], [given[name] for given in candidate]) for name in reference[0]]
    return float(np.mean(shares))


def decibels(noise: float) -> float:
    """Noise over signal as signal-to-quantisation-noise ratio (SQNR) in dB, at most 200."""
    return round(float(-10 * np.log10(max(noise, 1e-20))), 2)


def _share(reference: Sequence[F32], candidate: Sequence[F32]) -> float:
    power = sum(float(np.square(given, dtype=np.float64).sum()) for given in reference)
    noise = sum(
        float(np.square(np.subtract(given, other, dtype=np.float64)).sum()) for given, other in zip(reference, candidate, strict=True)
    )
    return noise / max(power, 1e-30)


def _detector_noise(card: ModelCard, decoder: DetectionDecoder, reference: Outputs, candidate: Outputs) -> float:
    """Where FP32 finds a face, the mean squares of the change of its score and of the shift of its corners and landmarks in sides of the
    box. What a detector says of all other cells' geometry is arbitrary. Without any face: the noise of the scores.
    """
    allowed_score, allowed_shift = card.allowance.score or 1.0, 1.0 - (card.allowance.overlap or 0.0)
    found: list[F32] = []
    for given, other in zip(reference, candidate, strict=True):
        cells = _faces(decoder, card.thresholds.score or 0.0, given)
        if len(cells):
            boxes, moved = decoder.boxes(given, cells), decoder.boxes(other, cells)
            marks, moved_marks = decoder.landmarks(given, cells, boxes), decoder.landmarks(other, cells, moved)
            sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)[:, None]
            points = np.concatenate([(moved - boxes).reshape(-1, 2, 2), moved_marks - marks], 1) / sides
            score = (decoder.scores(other)[cells] - decoder.scores(given)[cells]) / allowed_score
            found.append(np.square(points / allowed_shift).mean((1, 2)) + np.square(score))
    if found:
        return float(np.concatenate(found).mean())
    return _share([decoder.scores(given) for given in reference], [decoder.scores(given) for given in candidate])


def _faces(decoder: DetectionDecoder, threshold: float, outputs: Mapping[str, F32]) -> NDArray[np.intp]:
    """The cells that a face is read from."""
    scores = decoder.scores(outputs)
    cells = np.flatnonzero(scores >= threshold)
    cells = cells[np.argsort(-scores[cells], kind="stable")][:MOST]
    return cells[suppress(decoder.boxes(outputs, cells), decoder.params.iou)] if len(cells) else cells
