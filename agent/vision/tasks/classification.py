"""What a picture shows, by any classification card.

infer   classifier ─► probabilities                                  (several threads)
update  answer ─► held long enough? ─► events new, update, end       (one thread, in frame order)
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.datatypes import Annotation, Event, Frame
from agent.settings import Settings
from agent.timing import latencies
from agent.vision.base import Task
from agent.vision.classifier_kit import ClassifierKit
from agent.vision.tasks.classification_config import ClassificationConfig as ClassificationConfig
from engines.answers import answer

LOST_S = 5.0
"""An answer ends when no frame could be classified for so long."""
JUMP_S = 1.0
"""A recording's clock that goes back by more than this has started again."""

Kind = Literal["new", "update", "end"]
Reason = Literal["changed", "left", "stream lost", "stopped"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """probabilities: (labels,) float32; infer_s: seconds that the model took."""

    probabilities: NDArray[np.float32]
    infer_s: float


@dataclass(slots=True)
class Episode:
    """For as long as the answer stays the same. `started_at`, `seen_at`: Unix seconds; `since`, `told`: the stream's clock;
    `total`: the sum of the probabilities of its frames."""

    label: str
    started_at: float
    since: float
    total: NDArray[np.float64]
    id: str = ""
    frames: int = 0
    seen_at: float = 0.0
    told: float = 0.0
    mean: NDArray[np.float64] = field(init=False)

    def see(self, frame: Frame, probabilities: NDArray[np.float32]) -> None:
        """One more frame that gave this answer."""
        self.frames, self.seen_at, self.total = self.frames + 1, frame.captured_at, self.total + probabilities
        self.mean = self.total / self.frames


class ClassificationTask(Task):
    """Classification events of one stream."""

    Config = ClassificationConfig

    def __init__(self, config: ClassificationConfig, stream: str, settings: Settings) -> None:
        self._config = config
        self._stream = stream
        self._kit = ClassifierKit.open(settings, config.model)
        self._card = self._kit.classifier.card
        self.parallel = self._kit.classifier.engine.parallel
        self._limit = config.threshold or self._card.thresholds.score
        self._told: Episode | None = None
        self._coming: Episode | None = None
        self._at = -np.inf
        self._frames = self._episodes = 0
        self._times: deque[float] = deque(maxlen=500)
        self._closed = False

    def infer(self, frame: Frame) -> Prediction:
        """The probabilities of the frame."""
        started = time.perf_counter()
        probabilities = self._kit.classifier.classify([frame.image]).probabilities[0]
        return Prediction(probabilities, time.perf_counter() - started)

    def update(self, frame: Frame, prediction: Prediction) -> list[Event]:
        """Carry the answer on. A photograph stands alone: it is told at once, with a key, so that a repeat adds nothing."""
        self._frames += 1
        self._times.append(prediction.infer_s)
        if frame.item is not None:
            return [self._photograph(frame, prediction)]
        at = frame.clock_s
        events = self.flush(frame.captured_at, frame.mono_ns, "left") if at < self._at - JUMP_S else []
        self._at = at
        holding = self._told.label if self._told else None
        label = answer(self._card, prediction.probabilities.tolist(), self._limit, holding, self._config.margin)
        if self._told is not None and label == self._told.label:
            self._coming = None
            events += self._go_on(self._told, frame, prediction, at)
        else:
            events += self._turn(label, frame, prediction, at)
        self.annotations = (_annotation(self._told, frame, self._card.labels),) if self._told else ()
        return events

    def missed(self, frame: Frame) -> list[Event]:
        """Ends the answer when no frame could be classified for `LOST_S`."""
        at = frame.clock_s
        if self._told is None or -JUMP_S <= at - self._at <= LOST_S:
            return []
        return self.flush(frame.captured_at, frame.mono_ns, "stream lost")

    def flush(self, captured_at: float, mono_ns: int, reason: str) -> list[Event]:
        """End the answer that holds."""
        ended = [self._event(self._told, "end", captured_at, mono_ns, reason)] if self._told else []
        self._told, self._coming, self.annotations, self._at = None, None, (), -np.inf
        return ended

    def metrics(self) -> dict[str, float]:
        """`…_total` since the start, `…_seconds` of the last 500 frames."""
        figures: dict[str, float] = {"classified_total": self._frames, "answers_total": self._episodes}
        return figures | latencies("classify", self._times)

    def engines(self) -> list[dict[str, Any]]:
        """The classifier's passport, and why it is run so."""
        return self._kit.engines()

    def close(self) -> None:
        """Give the engine back. Calling it twice does no harm."""
        if not self._closed:
            self._closed = True
            self._kit.close()

    def _go_on(self, told: Episode, frame: Frame, prediction: Prediction, at: float) -> list[Event]:
        told.see(frame, prediction.probabilities)
        if at - told.told < self._config.update_s:
            return []
        told.told = at
        return [self._event(told, "update", frame.captured_at, frame.mono_ns)]

    def _turn(self, label: str, frame: Frame, prediction: Prediction, at: float) -> list[Event]:
        """Another answer than the one that was told: it is told in its turn once it held for long enough."""
        if self._coming is None or self._coming.label != label:
            self._coming = Episode(label, frame.captured_at, at, np.zeros(len(self._card.labels)))
        self._coming.see(frame, prediction.probabilities)
        if at - self._coming.since < self._config.hold_s:
            return []
        events = [self._event(self._told, "end", frame.captured_at, frame.mono_ns, "changed")] if self._told else []
        self._told, self._coming = self._coming, None
        self._episodes += 1
        self._told.told, self._told.id = at, secrets.token_hex(8)
        return [*events, self._event(self._told, "new", frame.captured_at, frame.mono_ns)]

    def _photograph(self, frame: Frame, prediction: Prediction) -> Event:
        label = answer(self._card, prediction.probabilities.tolist(), self._limit)
        alone = Episode(label, frame.captured_at, 0.0, np.zeros(len(self._card.labels)), id=str(frame.item)[:16])
        alone.see(frame, prediction.probabilities)
        self._episodes += 1
        self.annotations = (_annotation(alone, frame, self._card.labels),)
        key = f"classification:{self._stream}:{self._card.model_id}:{frame.item}"
        return self._event(alone, "end", frame.captured_at, frame.mono_ns, key=key)

    def _event(
        self, episode: Episode, kind: Kind, captured_at: float, mono_ns: int, reason: str | None = None, key: str | None = None
    ) -> Event:
        labels = self._card.labels
        data = {
            "type": kind,
            "track": episode.id,
            "label": episode.label,
            "positive": None if self._card.positive is None else episode.label == self._card.positive,
            "probabilities": {label: round(float(mean), 4) for label, mean in zip(labels, episode.mean, strict=True)},
            "threshold": self._limit if self._card.positive else None,
            "started_at": episode.started_at,
            "ended_at": episode.seen_at if kind == "end" else None,
            "frames": episode.frames,
            "reason": reason,
        }
        return Event(self._stream, "classification", data, captured_at, mono_ns, self._card.model_id, key)


def _annotation(episode: Episode, frame: Frame, labels: tuple[str, ...]) -> Annotation:
    height, width = frame.image.shape[:2]
    score = float(episode.mean[labels.index(episode.label)])
    return Annotation((1, 1, width - 2, height - 2), episode.label, score, known=True, track=episode.id)
