"""What a model says of a radiograph, or why it says nothing.

infer   tags? ─► pixels? ─► classifier ─► unfamiliar? ─► margin? ─► heat map      (several threads)
update  result, durable ─► event study                                            (one thread, in order of arrival)

An instance that came to nothing passes through as its failure, and ends in an event as well.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.datatypes import Event, Frame
from agent.errors import NotNowError
from agent.settings import Settings
from agent.studies import StudyError, StudyFailure, StudyPicture, StudyResult
from agent.timing import latencies
from agent.vision.base import Task
from agent.vision.classifier_kit import ClassifierKit
from agent.vision.frontal import frontal
from agent.vision.heat_map import activation, heat_map
from agent.vision.occlusion import occlusion
from agent.vision.sources.dicom import study_folders
from agent.vision.tasks.study_config import StudyConfig as StudyConfig
from engines.answers import answer, to_spare
from engines.card import ModelCard
from engines.errors import ModelFileError
from engines.familiar import familiar
from engines.preprocess import Image
from engines.results import Classification

Abstained = Literal["", "unusable", "tags", "pixels", "unfamiliar", "margin"]
Explained = Literal["", "class activation", "occlusion"]
EXPLAINED: dict[Explained, str] = {
    "": "No heat map was made.",
    "class activation": "The heat map is made of the network's class activation maps; where it is hot need not be where a disease is.",
    "occlusion": "The heat map shows where covering the picture with grey squares lowered the score; that need not be where a disease is.",
}
STEPS = ("queue", "decode", "codec", "preprocess", "infer", "explain", "publish")


@dataclass(slots=True)
class Finding:
    """What `infer` found. `scores` by label; with `abstained` there is no `decision`, and `why` is the reason in a sentence.
    `timings`: seconds by step."""

    scores: dict[str, float] = field(default_factory=dict)
    decision: str = ""
    abstained: Abstained = ""
    why: str = ""
    heat_map: bytes | None = None
    explained: Explained = ""
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = time.perf_counter() - started


class StudyTask(Task):
    """Study events of one stream."""

    Config = StudyConfig

    def __init__(self, config: StudyConfig, stream: str, settings: Settings) -> None:
        self._config = config
        self._stream = stream
        self._folders = study_folders(settings)
        self._kit = ClassifierKit.open(settings, config.model)
        self._card = self._kit.classifier.card
        self._frontal = frontal() if config.pixels else None
        self._familiar = familiar(self._card) if config.unfamiliar else None
        self._positive, self._limit = _point(self._card, config)
        self.parallel = self._kit.classifier.engine.parallel
        self._counts: Counter[str] = Counter()
        self._times: dict[str, deque[float]] = {step: deque(maxlen=500) for step in STEPS}
        self._closed = False

    def infer(self, frame: Frame) -> Finding:
        """Check, classify, explain."""
        if isinstance(frame.about, StudyFailure):
            return Finding(abstained="unusable", why=frame.about.detail)
        picture = _about(frame)
        waited = (time.monotonic_ns() - frame.mono_ns) / 1e9
        found = Finding(timings={"queue": max(0.0, waited - picture.decode_s), "decode": picture.decode_s, "codec": picture.codec_s})
        image = frame.image[:, :, 0]
        if picture.note:
            found.abstained, found.why = "tags", f"no frontal chest radiograph by its tags: {picture.note}"
            return found
        with found.step("preprocess"):
            objection = self._frontal.objection(image) if self._frontal else ""
            if objection:
                found.abstained, found.why = "pixels", f"no frontal chest radiograph by its pixels: {objection}"
                return found
            fitted = self._kit.classifier.fit(image)
        with found.step("infer"):
            said = self._kit.classifier.read([fitted])
        objection = self._familiar.objection(said.features[0]) if self._familiar and said.features is not None else ""
        if objection:
            found.abstained, found.why = "unfamiliar", objection
            return found
        scores = said.probabilities[0].tolist()
        found.scores = dict(zip(self._card.labels, scores, strict=True))
        decision = answer(self._card, scores, self._limit)
        if to_spare(self._card, scores, self._limit) < self._config.margin:
            found.abstained, found.why = "margin", "the scores are too close to another answer"
            return found
        found.decision = decision
        if self._config.heat_map:
            with found.step("explain"):
                self._explain(found, said, fitted, image.shape)
        return found

    def _explain(self, found: Finding, said: Classification, fitted: Image, shape: tuple[int, int]) -> None:
        """From the model's own maps, or else by covering parts of the picture."""
        place = self._card.labels.index(found.decision)
        if said.maps is not None:
            evidence, found.explained = activation(said.maps[0], place), "class activation"
        else:
            seen = occlusion(self._kit.classifier, fitted, place, self._config.heat_map_s, found.timings["infer"])
            if seen is None:
                return
            evidence, found.explained = seen, "occlusion"
        found.heat_map = heat_map(evidence, self._card.input, shape)

    def update(self, frame: Frame, prediction: Finding) -> list[Event]:
        """The result is durable before its event is. The key is derived from the instance and the model, so that a repeat adds nothing."""
        if isinstance(failure := frame.about, StudyFailure):
            self._count(prediction)
            data = self._told(prediction) | {"item": failure.item, "modality": "", "view": "", "failure": failure.reason}
            return [Event(self._stream, "study", data, frame.captured_at, frame.mono_ns, key=f"study:{frame.item}")]
        picture, model = _about(frame), self._card.model_id
        with prediction.step("publish"):
            result = StudyResult(
                picture.item, model, prediction.scores, self._positive, self._limit, prediction.decision, prediction.why,
                self._sentences(prediction), prediction.heat_map, prediction.timings, time.time(), prediction.explained,
            )  # fmt: skip
            try:
                self._folders.write_result(result)
            except StudyError as error:
                raise NotNowError(str(error)) from error
        self._count(prediction)
        data = self._told(prediction) | {"item": picture.item, "modality": picture.modality, "view": picture.view}
        return [Event(self._stream, "study", data, frame.captured_at, frame.mono_ns, model, f"study:{picture.item}:{model}")]

    def _told(self, found: Finding) -> dict[str, Any]:
        """Of an event's data all that does not depend on the instance."""
        return {
            "decision": found.decision or None,
            "positive": self._positive,
            "threshold": round(self._limit, 4),
            "scores": {label: round(score, 4) for label, score in found.scores.items()},
            "abstained": found.abstained or None,
            "reason": found.why or None,
            "heat_map": found.heat_map is not None,
            "explained": found.explained or None,
            "timings": {step: round(seconds, 4) for step, seconds in found.timings.items()},
        }

    def metrics(self) -> dict[str, float]:
        """`…_total` since the start, `…_seconds` of the last 500 studies."""
        figures: dict[str, float] = {"studies_total": self._counts["all"], "studies_abstained_total": self._counts["abstained"]}
        for step, times in self._times.items():
            figures |= latencies(f"study_{step}", times)
        return figures

    def engines(self) -> list[dict[str, Any]]:
        """The classifier's passport, and why it is run so."""
        return self._kit.engines()

    def close(self) -> None:
        """Give the engine back. Calling it twice does no harm."""
        if not self._closed:
            self._closed = True
            self._kit.close()

    def _sentences(self, found: Finding) -> tuple[str, ...]:
        """For the report: what was answered, by which scores, and what that does not mean."""
        if not found.decision:
            return ()
        return (
            f"Of {', '.join(self._card.labels)}, which are all that it knows, the model answers {found.decision}.",
            f"The score of {self._positive} is {found.scores[self._positive]:.3f}; from {self._limit:.3f} on that is the answer.",
            "A score is no probability of a disease, and what the model does not know is not excluded.",
            EXPLAINED[found.explained],
        )

    def _count(self, found: Finding) -> None:
        self._counts["all"] += 1
        self._counts["abstained"] += bool(found.abstained)
        for step, seconds in found.timings.items():
            self._times[step].append(seconds)


def _point(card: ModelCard, config: StudyConfig) -> tuple[str, float]:
    """The positive class and the score from which it is the answer. Raises ModelFileError where the card does not say."""
    limit = config.threshold or card.thresholds.score
    if card.positive is None or limit is None:
        raise ModelFileError(f"{card.name}: radiographs need a card with `positive` and `thresholds.score`; complete it")
    return card.positive, limit


def _about(frame: Frame) -> StudyPicture:
    assert isinstance(frame.about, StudyPicture)
    return frame.about
