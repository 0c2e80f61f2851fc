"""What a model says of a radiograph, or why it says nothing.

infer   tags? ─► pixels? ─► classifier ─► margin? ─► heat map      (several threads)
update  result, durable ─► event study                             (one thread, in order of arrival)
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
from agent.studies import StudyError, StudyPicture, StudyResult
from agent.vision.base import Task
from agent.vision.classifier_kit import ClassifierKit
from agent.vision.frontal import frontal
from agent.vision.heat_map import heat_map
from agent.vision.sources.dicom import study_folders
from agent.vision.tasks.study_config import StudyConfig as StudyConfig
from agent.vision.timing import latencies
from engines.answers import answer
from engines.card import ModelCard
from engines.errors import ModelFileError

Abstained = Literal["", "tags", "pixels", "margin"]
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
        self._positive, self._limit = _point(self._card, config)
        self.parallel = self._kit.classifier.engine.parallel
        self._counts: Counter[str] = Counter()
        self._times: dict[str, deque[float]] = {step: deque(maxlen=500) for step in STEPS}
        self._closed = False

    def infer(self, frame: Frame) -> Finding:
        """Check, classify, explain."""
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
        scores = said.probabilities[0].tolist()
        found.scores = dict(zip(self._card.labels, scores, strict=True))
        decision = answer(self._card, scores, self._limit)
        if self._to_spare(found.scores, decision) < self._config.margin:
            found.abstained, found.why = "margin", "the scores are too close to another answer"
            return found
        found.decision = decision
        if self._config.heat_map and said.maps is not None:
            with found.step("explain"):
                found.heat_map = heat_map(said.maps[0], self._card.labels.index(decision), self._card.input, image.shape)
        return found

    def update(self, frame: Frame, prediction: Finding) -> list[Event]:
        """The result is durable before its event is. The key is derived from the instance and the model, so that a repeat adds nothing."""
        picture, model = _about(frame), self._card.model_id
        with prediction.step("publish"):
            result = StudyResult(
                picture.item, model, prediction.scores, self._positive, self._limit, prediction.decision, prediction.why,
                self._sentences(prediction), prediction.heat_map, prediction.timings, time.time(),
            )  # fmt: skip
            try:
                self._folders.write_result(result)
            except StudyError as error:
                raise NotNowError(str(error)) from error
        self._count(prediction)
        data = {
            "item": picture.item,
            "modality": picture.modality,
            "view": picture.view,
            "decision": prediction.decision or None,
            "positive": self._positive,
            "threshold": round(self._limit, 4),
            "scores": {label: round(score, 4) for label, score in prediction.scores.items()},
            "abstained": prediction.abstained or None,
            "reason": prediction.why or None,
            "heat_map": prediction.heat_map is not None,
            "timings": {step: round(seconds, 4) for step, seconds in prediction.timings.items()},
        }
        return [Event(self._stream, "study", data, frame.captured_at, frame.mono_ns, model, f"study:{picture.item}:{model}")]

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

    def _to_spare(self, scores: dict[str, float], decision: str) -> float:
        """How much a score would have to change for another answer."""
        if decision == self._positive:
            return scores[decision] - self._limit
        others = [score for label, score in scores.items() if label not in (decision, self._positive)]
        return min([self._limit - scores[self._positive], *(scores[decision] - score for score in others)])

    def _sentences(self, found: Finding) -> tuple[str, ...]:
        """For the report: what was answered, by which scores, and what that does not mean."""
        if not found.decision:
            return ()
        return (
            f"Of {', '.join(self._card.labels)}, which are all that it knows, the model answers {found.decision}.",
            f"The score of {self._positive} is {found.scores[self._positive]:.2f}; from {self._limit:.2f} on that is the answer.",
            "A score is no probability of a disease, and what the model does not know is not excluded.",
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
