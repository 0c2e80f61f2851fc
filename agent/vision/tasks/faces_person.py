"""What is known about one track, and how events tell it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.datatypes import Annotation
from agent.vision.recognition import Candidates, Evidence, Judge, Vector
from agent.vision.tracker.byte import Track

Kind = Literal["new", "update", "end"]

FIRST_VIEWS = ((3, 0.08), (12, 0.3), (24, 0.6))
"""(views, seconds): up to so many views, the next embedding is due after so long. Views of one moment say much the same."""
RIPE_QUALITY, RIPE_VIEWS = 0.3, 6
CLEARLY_BETTER = 1.3
"""A view by so much better than the best one is embedded before its time."""


STILL = 0.1
"""Of a cluster's radius: a template that moved less stays where it was."""


@dataclass(slots=True)
class Person:
    """One track's face. Times are Unix seconds, but `due_at` and `told_at`, which are of the tracker's clock.
    `placed` is the template for which `cluster` was given."""

    track: Track
    judge: Judge
    started_at: float
    seen_at: float
    evidence: Evidence = field(default_factory=Evidence)
    candidates: int = -1
    geometry: float = 0.0
    cluster: str | None = None
    placed: Vector | None = None
    frames: int = 0
    due_at: float = 0.0
    told_at: float = 0.0
    told_quality: float = 0.0

    def look(self, vector: Vector, geometry: float, quality: float, at: float, recheck_s: float) -> None:
        """Take an embedding in. One that looks like a stranger's stays out until the tracker has made up its mind."""
        if self.track.doubt:
            self.due_at = at
            return
        self.geometry = max(self.geometry, geometry)
        self.evidence.add(vector, quality)
        self.candidates = -1
        self.track.template, self.track.views = self.evidence.template(self.judge.point.stranger)
        self.due_at = at + next((seconds for views, seconds in FIRST_VIEWS if self.evidence.seen < views), recheck_s)

    def absorb(self, other: Person) -> None:
        """`other` was this person all the time."""
        self.evidence.absorb(other.evidence)
        self.geometry = max(self.geometry, other.geometry)
        self.seen_at, self.frames, self.candidates, self.due_at = other.seen_at, self.frames + other.frames, -1, other.due_at
        self.track.template, self.track.views = self.evidence.template(self.judge.point.stranger)

    def assess(self, candidates: Candidates) -> bool:
        """Decide anew if there is a new view or the gallery has changed. True when the answer changed."""
        if self.candidates == candidates.version or not self.evidence.seen:
            return False
        self.candidates = candidates.version
        return self.judge.assess(self.evidence, candidates)

    @property
    def moved(self) -> bool:
        """Whether the template says more than the one for which the cluster was given: each change is a write to the disk."""
        template = self.track.template
        if template is None or self.placed is None:
            return template is not None
        return float(np.linalg.norm(template - self.placed)) > STILL * self.judge.point.cluster

    @property
    def ripe(self) -> bool:
        """Whether the evidence is good enough for a pseudonym that is to last."""
        return self.evidence.best_quality >= RIPE_QUALITY or self.evidence.seen >= RIPE_VIEWS

    def data(self, kind: Kind, reason: str | None = None) -> dict[str, Any]:
        """The event's data."""
        decision, track = self.judge.decision, self.track
        return {
            "type": kind,
            "track": track.id,
            "box": _pixels(track.box),
            "score": round(track.best_score, 4),
            "started_at": self.started_at,
            "ended_at": self.seen_at if kind == "end" else None,
            "identity": decision.identity,
            "name": decision.name,
            "decision": decision.kind,
            "distance": _rounded(decision.distance),
            "threshold": _rounded(None if math.isnan(self.judge.limit) else self.judge.limit),
            "second_best": _rounded(decision.second_best),
            "cluster": self.cluster if decision.kind == "unknown" else None,
            "frames": self.frames,
            "reason": reason,
        }

    def annotation(self) -> Annotation:
        """For the live picture."""
        decision = self.judge.decision
        x1, y1, x2, y2 = (float(value) for value in self.track.box)
        label = decision.name if decision.kind == "known" else self.cluster or decision.kind
        return Annotation((x1, y1, x2, y2), label or "", self.track.score, decision.kind == "known", self.track.id)


@dataclass(frozen=True, slots=True)
class Settled:
    """What `infer` may know of the tracks in sight, replaced as a whole. boxes: x1, y1, x2, y2; geometry: best view so far, 0 for none;
    due: when the next embedding is wanted, on the tracker's clock."""

    boxes: list[list[float]]
    geometry: list[float]
    due: list[float]

    @staticmethod
    def of(people: list[Person]) -> Settled:
        """A view of these."""
        boxes = [person.track.box.tolist() for person in people]
        return Settled(boxes, [person.geometry for person in people], [person.due_at for person in people])


def new_person(track: Track, judge: Judge, captured_at: float) -> Person:
    """Of a track that has just begun."""
    return Person(track, judge, captured_at, captured_at)


def _pixels(box: NDArray[np.float32]) -> list[float]:
    return [round(float(value), 1) for value in box]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
