"""The gate: an INT8 engine that is further from FP32 than its card allows is not let through, and it is said by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.labels import Labelled
from engines.base import Engine
from engines.calibrated import Accuracy
from engines.card import ModelCard
from engines.familiar import familiar
from engines.parity import Judge, Parity, answers, batches, classifier_parity, detector_differences, template_distances, too_far
from engines.preprocess import Image

ONE_POINT = 0.01
"""The loss of a labelled set's metric that is allowed where the card says nothing."""
COUNTED = 0.95
"""The share of the held-out pictures that counts: of twenty, the worst is left out, for a camera also shows faces on the verge."""


MAPS_ALIKE = 0.9
"""Least correlation of the maps with FP32's, on average (`chest-xray` at INT8: 0.99 in the middle, 0.985 at worst, of 117 pictures)."""
MARGIN = 0.75
"""The share of what a card allows to be lost on average that may be lost where float nodes are chosen: what was chosen for some pictures
does a little worse on others. Of the worst pictures a sample tells too little to ask for more."""
TEMPLATES_MARGIN = 0.9
"""The same for the distance of templates, which differs less from picture to picture."""


def strict(card: ModelCard) -> ModelCard:
    """The card, whose allowance for averages is `MARGIN` of what it was (`TEMPLATES_MARGIN` for templates); the noise counts as a power."""
    own = card.allowance
    losses = {"accuracy": ONE_POINT if own.accuracy is None else own.accuracy}
    if own.probability is not None:
        losses["probability"] = own.probability
    least = {name: value for name in ("mean_overlap", "agreement") if (value := getattr(own, name)) is not None}
    tight = {name: MARGIN * value for name, value in losses.items()} | {name: 1 - MARGIN * (1 - value) for name, value in least.items()}
    if own.distance is not None:
        tight["distance"] = TEMPLATES_MARGIN * own.distance
    if own.sqnr_db is not None:
        tight["sqnr_db"] = own.sqnr_db - 10 * math.log10(MARGIN)
    return card.model_copy(update={"allowance": own.model_copy(update=tight)})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate saw; `why` is empty where it lets the engine through."""

    why: str
    accuracy: tuple[Accuracy, ...]
    parity: Parity
    portraits: Parity | None


@dataclass(frozen=True, slots=True)
class Gate:
    """Judges by the labelled set's metrics where there is one, else by the outputs for samples that were held out of the ranges.

    In either case the portraits are looked at as well, as the store will when it builds the engine; None where they are not had.
    """

    card: ModelCard
    decoder: Any
    held_out: Sequence[Image]
    labelled: Labelled | None
    portraits: Judge | None

    def judge(self, reference: Engine, candidate: Engine) -> Verdict:
        """Compare with the FP32 engine. Raises EngineError, also where outputs are not finite."""
        parity = self._outputs(reference, candidate)
        accuracy = self._metrics(reference, candidate) if self.labelled is not None else ()
        portraits = self.portraits(reference, candidate) if self.portraits is not None else None
        why = (_lost(self.card, accuracy) if accuracy else parity.why) or self._beside(reference, candidate)
        if not why and portraits is not None and portraits.why:
            why = f"on the portraits {portraits.why}"
        return Verdict(why, accuracy, parity, portraits)

    def _metrics(self, reference: Engine, candidate: Engine) -> tuple[Accuracy, ...]:
        assert self.labelled is not None
        want, got = self.labelled.measure(reference), self.labelled.measure(candidate)
        count, digest = len(self.labelled.pictures), self.labelled.digest
        return tuple(Accuracy(metric=name, reference=want[name], candidate=got[name], count=count, data_sha256=digest) for name in want)

    def _beside(self, reference: Engine, candidate: Engine) -> str:
        """Why what a classifier gives beside its answers, for the same held-out pictures, is not as FP32 gives it; empty where it is.

        By its features a picture is taken for one of a kind that the model does not know; its map shows where in it the answer was seen.
        """
        if self.card.task != "classification":
            return ""
        want, got = self._given(reference), self._given(candidate)
        known, least, count = familiar(self.card), self.card.allowance.agreement or 0.0, len(self.held_out)
        if known is not None:
            strange = [known.distances(one["features"]) > known.limit for one in (want, got)]
            same = float((strange[0] == strange[1]).mean())
            if same < least:
                return f"of {count} pictures {same:.3f} count as familiar or not as at FP32, at least {least:g} must"
        if "maps" in want:
            top = want["answers"].argmax(1)
            alike = np.mean([_alike(*(one["maps"][row, top[row]] for one in (want, got))) for row in range(count)])
            if alike < MAPS_ALIKE:
                return f"the maps of where {count} answers were seen correlate with FP32's by {alike:.3f}, at least {MAPS_ALIKE:g} must be"
        return ""

    def _given(self, engine: Engine) -> dict[str, Any]:
        """Answers, maps and features of the held-out pictures, those that the model has."""
        ways = {"answers": self.decoder.decode, "maps": self.decoder.maps, "features": self.decoder.features}
        rows = [{name: np.array(read(outputs)) for name, read in ways.items()} for outputs in batches(engine, self.held_out)]
        return {name: np.concatenate([one[name] for one in rows])[: len(self.held_out)] for name in ways if rows[0][name].ndim}

    def _outputs(self, reference: Engine, candidate: Engine) -> Parity:
        card, count = self.card, len(self.held_out)
        if card.task == "face-detection":
            found = detector_differences(card, self.decoder, reference, candidate, self.held_out)
            score = float(np.quantile([one.score for one in found], COUNTED))
            overlap = float(np.quantile([one.overlap for one in found], 1 - COUNTED))
            mean = float(np.mean([each for one in found for each in one.overlaps] or [0.0]))
            faces, there = sum(one.faces for one in found), sum(one.found for one in found)
            why = too_far(card.allowance, score=score, overlap=overlap, mean_overlap=mean, faces=faces, found=there)
            return Parity(
                pictures="samples", count=count, faces=faces, found=there, score=score, overlap=overlap, mean_overlap=mean, why=why
            )
        if card.task == "face-embedding":
            distance = float(np.quantile(template_distances(self.decoder, reference, candidate, self.held_out), COUNTED))
            return Parity(pictures="samples", count=count, distance=distance, why=too_far(card.allowance, distance=distance))
        return classifier_parity(card.allowance, answers(self.decoder, reference, candidate, self.held_out), "samples")


def _alike(one: Any, other: Any) -> float:
    """How two maps correlate; 1 where neither shows anything."""
    flat = [np.ravel(each).astype(np.float64) - np.mean(each) for each in (one, other)]
    sizes = [float(np.linalg.norm(each)) for each in flat]
    return float(flat[0] @ flat[1]) / (sizes[0] * sizes[1]) if all(sizes) else float(not any(sizes))


def _lost(card: ModelCard, accuracy: Sequence[Accuracy]) -> str:
    allowed = ONE_POINT if card.allowance.accuracy is None else card.allowance.accuracy
    for one in accuracy:
        loss = (one.candidate - one.reference) if one.metric == "eer" else (one.reference - one.candidate)
        if loss > allowed + 1e-9:
            return f"{one.metric} is {one.candidate:.4f}, at FP32 {one.reference:.4f}: {loss:.4f} worse, allowed are {allowed:g}"
    return ""
