"""Who a track shows: evidence over frames, an open-set decision, and no flipping on a single frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engines.card import ModelCard

REFERENCE = 20
"""The size of the gallery for which a card's `identify` was chosen."""

Vector = NDArray[np.float32]
"""(D,) float32, as the embedder gives it; nearness is Euclidean distance."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Embedding distances at which decisions fall; they belong to one embedder and travel in its card.

    verify: two photographs show one person. identify: a track is an enrolled identity; margin: and the second best identity is at
    least so much further. strong: one very good view is enough. cluster: two tracks of unknown persons are one person.
    stranger: two views of one track cannot be one person. `identify` is for a gallery of 20: see `limit`.
    """

    verify: float
    identify: float
    margin: float
    strong: float
    cluster: float
    stranger: float
    slack: float = 0.0

    @staticmethod
    def of(verify: float, identify: float) -> OperatingPoint:
        """From a card's thresholds; the others follow from `verify`, in proportions that were tried with the default embedder only."""
        return OperatingPoint(verify, identify, 0.05 * verify, 0.74 * verify, 0.82 * verify, 1.23 * verify, 0.05 * verify)

    def limit(self, enrolled: int) -> float:
        """`identify` for so many identities.

        A stranger has one chance with each of them to be taken for somebody, so at one limit false names grow with the gallery. In trials
        with the default embedder they grew e-fold with every 0.011 of distance; the shift of `slack` · (1 - ln(enrolled) / ln 20) keeps
        them about level.
        """
        return self.identify + self.slack * (1.0 - math.log(max(enrolled, 1)) / math.log(REFERENCE))


def operating_point(embedder: ModelCard) -> OperatingPoint:
    """Of an embedder's card."""
    thresholds = embedder.thresholds
    assert thresholds.verify is not None
    assert thresholds.identify is not None
    return OperatingPoint.of(thresholds.verify, thresholds.identify)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The nearest identity and how far the second nearest one is; None where there is no (second) identity."""

    identity: str | None = None
    name: str | None = None
    distance: float | None = None
    second_best: float | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    """An immutable view of the gallery for one embedder. matrix: (M, D); owners: (M,) index into ids and names.

    `version` changes with every change of the gallery.
    """

    version: int
    ids: tuple[str, ...]
    names: tuple[str, ...]
    owners: NDArray[np.intp]
    matrix: NDArray[np.float32]

    @staticmethod
    def none(version: int = 0) -> Candidates:
        """Nobody is enrolled."""
        return Candidates(version, (), (), np.zeros(0, np.intp), np.zeros((0, 0), np.float32))

    def rank(self, vector: Vector) -> Ranking:
        """Each identity counts with its nearest picture."""
        if not self.ids:
            return Ranking()
        nearest = np.full(len(self.ids), np.inf)
        np.minimum.at(nearest, self.owners, np.linalg.norm(self.matrix - vector, axis=1))
        order = np.argsort(nearest, kind="stable")
        best = int(order[0])
        second = float(nearest[order[1]]) if len(order) > 1 else None
        return Ranking(self.ids[best], self.names[best], float(nearest[best]), second)


@dataclass(slots=True)
class Evidence:
    """The best views of one face. `limit` views are kept, the poorest goes first."""

    limit: int = 24
    seen: int = 0
    _views: list[tuple[float, Vector]] = field(default_factory=list)
    _template: tuple[Vector, int] | None = None

    def add(self, vector: Vector, quality: float) -> None:
        """Take a view in. `quality` in 0..1 is its weight."""
        self.seen += 1
        self._views.append((quality, vector))
        self._trim()

    def absorb(self, other: Evidence) -> None:
        """Take over the views of a track that turned out to be this one."""
        self.seen += other.seen
        self._views += other._views
        self._trim()

    @property
    def best_quality(self) -> float:
        """Of the best view; 0 without one."""
        return max((quality for quality, _ in self._views), default=0.0)

    def template(self, stranger: float) -> tuple[Vector, int]:
        """The mean of the views by quality and how many it rests on. Views as far as `stranger` from the most central one stay out."""
        if self._template is None:
            vectors = np.stack([vector for _, vector in self._views])
            weights = np.array([quality for quality, _ in self._views]) + 1e-3
            squares = np.einsum("nd,nd->n", vectors, vectors)
            distances = np.sqrt(np.maximum(squares[:, None] + squares[None] - 2 * vectors @ vectors.T, 0.0))
            kept = distances[int(np.argmin(distances @ weights))] < stranger
            mean: Vector = (weights[kept] @ vectors[kept] / weights[kept].sum()).astype(np.float32)
            self._template = mean, int(kept.sum())
        return self._template

    def _trim(self) -> None:
        self._views.sort(key=lambda view: -view[0])
        del self._views[self.limit :]
        self._template = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer about one face."""

    kind: Literal["known", "unknown", "undecided"] = "undecided"
    identity: str | None = None
    name: str | None = None
    distance: float | None = None
    second_best: float | None = None


@dataclass(slots=True)
class Judge:
    """Decides about one track. The first answer needs `least_views` agreeing views or one very good view far from the border; another
    answer replaces the standing one when `to_turn` assessments in a row give it. A name at the border needs `sure_views`, which take about
    two seconds: views of one moment agree with each other, also in what they get wrong. Qualities below `poor`: faces under 40 pixels.
    """

    point: OperatingPoint
    least_views: int = 3
    sure_views: int = 8
    very_good: float = 0.6
    poor: float = 0.1
    to_turn: int = 3
    decision: Decision = Decision()
    limit: float = math.nan
    """The largest distance of an identity in force at the last assessment."""
    _rival: tuple[str, str | None] | None = None
    _against: int = 0

    @staticmethod
    def of_photograph(point: OperatingPoint) -> Judge:
        """For a face of which there is one view and will be no other, so it is enough, also at the border."""
        return Judge(point, least_views=1, sure_views=1)

    def assess(self, evidence: Evidence, candidates: Candidates) -> bool:
        """Look at the evidence again. True when the answer or the name changed."""
        vector, views = evidence.template(self.point.stranger)
        ranking = candidates.rank(vector)
        self.limit = self.point.limit(len(candidates.ids))
        fresh = self._fresh(ranking, views, evidence.best_quality)
        standing = self.decision
        if standing.kind == "known" and standing.identity not in candidates.ids:
            standing, self._rival, self._against = Decision(), None, 0
        if standing.kind != "undecided" and not self._may_replace(standing, fresh):
            fresh = self._kept(standing, ranking)
        changed = (fresh.kind, fresh.identity, fresh.name) != (self.decision.kind, self.decision.identity, self.decision.name)
        self.decision = fresh
        return changed

    def _may_replace(self, standing: Decision, fresh: Decision) -> bool:
        """Whether it is the same answer, or the same other one for `to_turn` times in a row."""
        answer = (fresh.kind, fresh.identity)
        if fresh.kind == "undecided" or answer == (standing.kind, standing.identity):
            self._rival, self._against = None, 0
            return fresh.kind != "undecided"
        self._against = self._against + 1 if answer == self._rival else 1
        self._rival = answer
        if self._against < self.to_turn:
            return False
        self._rival, self._against = None, 0
        return True

    def _fresh(self, ranking: Ranking, views: int, quality: float) -> Decision:
        """What the evidence says by itself. Poor views, in which many people look alike, name only whom they show clearly."""
        point, distance, second = self.point, ranking.distance, ranking.second_best
        poor, very_good, enough = quality < self.poor, quality >= self.very_good, views >= self.least_views
        undecided = Decision("undecided", None, None, distance, second)
        if distance is None:
            return Decision("unknown") if not poor and (enough or very_good) else undecided
        if distance > self.limit:
            clear = not poor and (enough or (very_good and distance > point.verify))
            return Decision("unknown", None, None, distance, second) if clear else undecided
        strong = distance <= point.strong
        doubt = min(max((distance - point.strong) / max(self.limit - point.strong, 1e-6), 0.0), 1.0)
        seen = views >= self.least_views + doubt * (self.sure_views - self.least_views) or (very_good and strong)
        if not seen or (poor and not strong) or not self._distinct(distance, second, doubt):
            return undecided
        return Decision("known", ranking.identity, ranking.name, distance, second)

    def _distinct(self, distance: float, second: float | None, doubt: float) -> bool:
        """Whether the second best is far enough behind. Towards the border (`doubt` 1) the distance asked for triples: a stranger who
        happens to be that near to somebody is about as near to somebody else."""
        return second is None or second - distance >= self.point.margin * (1 + 2 * doubt)

    @staticmethod
    def _kept(standing: Decision, ranking: Ranking) -> Decision:
        """The standing answer with the figures that support it, renewed where they are about the same identity."""
        if standing.kind == "known" and ranking.identity == standing.identity:
            return Decision("known", standing.identity, ranking.name, ranking.distance, ranking.second_best)
        return standing


CUT_OFF = 0.15
"""What a face at the edge of the picture counts for: part of it is missing, and the landmarks are squeezed into what is left."""

NARROW = 0.5
"""Width by height of a box next to the side of the picture that cannot hold a whole face."""


def geometry(boxes: NDArray[np.float32], landmarks: NDArray[np.float32], width: int, height: int) -> NDArray[np.float64]:
    """How good (N,) faces of a picture are for recognition by size, pose and place alone, 0..1. landmarks: (N, 5, 2).

    Size counts up to 100 px, what the embedder's chip holds of a face. Pose: how far the nose tip lies off the middle between the eyes,
    in eye distances; 0 at about a half profile. Place: a face that touches the picture's edge, or that is NARROW next to
    its side, counts for CUT_OFF.
    """
    return np.array([_view(box, marks, width, height) for box, marks in zip(boxes.tolist(), landmarks.tolist(), strict=True)])


def _view(box: list[float], landmarks: list[list[float]], width: int, height: int) -> float:
    """One face's. Plain floats: for the few faces of a picture, arrays cost more than they save."""
    x1, y1, x2, y2 = box
    wide, high = x2 - x1, y2 - y1
    (left_x, left_y), (right_x, right_y), (nose_x, nose_y) = landmarks[:3]
    across, down = right_x - left_x, right_y - left_y
    length = max(math.hypot(across, down), 1e-3)
    off = abs((nose_x - (left_x + right_x) / 2) * across + (nose_y - (left_y + right_y) / 2) * down) / length**2
    touching = min(x1, y1, width - x2, height - y2) < 0.03 * min(wide, high)
    squeezed = wide < NARROW * high and min(x1, width - x2) < wide
    place = CUT_OFF if touching or squeezed else 1.0
    return min(max(min(wide, high) / 100.0, 0.05), 1.0) * min(max(1.0 - 2.0 * off, 0.05), 1.0) * place


SHARP = 60.0
"""Variance of the Laplacian of a 150-pixel chip, above which more sharpness does not matter."""


def sharp_share(chip: NDArray[np.uint8]) -> float:
    """Sharpness of a chip as a share of what matters, 0.2..1: a blurred view counts for less, never for nothing."""
    return min(max(sharpness(chip) / SHARP, 0.2), 1.0)


def sharpness(chip: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of an aligned (S, S, 3) BGR chip (Pech-Pacheco et al. 2000)."""
    import cv2

    _, spread = cv2.meanStdDev(cv2.Laplacian(cv2.cvtColor(chip, cv2.COLOR_BGR2GRAY), cv2.CV_32F))
    return float(spread[0, 0]) ** 2
