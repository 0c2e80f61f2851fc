"""How much quantisation noise there is in a model's outputs, counted where the outputs mean something."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from engines.card import ModelCard
from engines.decoders.base import DetectionDecoder
from engines.registry import DECODERS, resolve
from engines.results import F32

Outputs = Sequence[Mapping[str, F32]]
"""By sample, by output."""
Measure = Callable[[Outputs, Outputs], float]
"""Noise over signal, as powers, of a candidate's outputs (second) against the FP32 model's (first)."""


def outputs(model: Any, samples: Sequence[F32]) -> list[dict[str, F32]]:
    """What an ONNX model says of each sample, on ONNX Runtime's CPU provider."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    own, names = session.get_inputs()[0].name, [value.name for value in session.get_outputs()]
    return [dict(zip(names, session.run(names, {own: sample}), strict=True)) for sample in samples]


def measure_of(card: ModelCard) -> Measure:
    """For detectors the noise of scores and faces, for all other models that of the raw outputs."""
    if card.task != "face-detection":
        return raw_noise
    kind = resolve(DECODERS, card.decoder.name, "decoder")
    width, height = card.input.sizes[0]
    decoder: DetectionDecoder = kind(kind.Params(**card.decoder.params), height, width)
    threshold = (card.thresholds.score or 0.0) / 2
    return lambda reference, candidate: _detector_noise(decoder, threshold, reference, candidate)


def raw_noise(reference: Outputs, candidate: Outputs) -> float:
    """Of each output over all samples; the mean over the outputs."""
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


def _detector_noise(decoder: DetectionDecoder, threshold: float, reference: Outputs, candidate: Outputs) -> float:
    """Of the scores of all cells, plus, at the cells that FP32 takes for a face, the mean squared shift of corners and landmarks in
    units of the box's sides. What a detector says of the geometry of cells without a face is arbitrary.
    """
    scores = _share([decoder.scores(given) for given in reference], [decoder.scores(given) for given in candidate])
    shifts: list[F32] = []
    for given, other in zip(reference, candidate, strict=True):
        cells = np.flatnonzero(decoder.scores(given) >= threshold)
        if len(cells):
            (boxes, marks), (moved, moved_marks) = decoder.cells(given, cells), decoder.cells(other, cells)
            sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1.0)[:, None]
            points = np.concatenate([(moved - boxes).reshape(-1, 2, 2), moved_marks - marks], 1) / sides
            shifts.append(np.square(points).mean((1, 2)))
    return scores + (float(np.concatenate(shifts).mean()) if shifts else 0.0)
