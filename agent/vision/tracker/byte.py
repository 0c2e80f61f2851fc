"""Faces through time: ByteTrack (Zhang et al. 2022) with clocks instead of frame counts, and with faces' embeddings where there are any.

           high scores                low scores                 high scores left over
tracked ──────────────► tracked  ──────────────► tracked   lost ──────────────────────► tracked
   │ nothing fits, keep_lost_s ▲                                  a new box: tentative ─► confirmed, or part of a lost track whose
   └──────────► lost ──────────┘──────────► ended                                         face it shows
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.vision.tracker.association import best_pairs, overlaps
from agent.vision.tracker.motion import Motion

Vector = NDArray[np.float32]
MARGIN = 0.3
LEAST_OVERLAP = 0.15
MANY_VIEWS = 8
"""Embeddings from which a track's template is as good as it gets."""
FIRST_DOUBTS = 3
"""A track of one view, which may be a bad one, is left to another face when that many in a row look like somebody else's."""
LOST_WITHOUT_FACE_S = 0.7
"""A lost track whose face is known takes a box without an embedding only this soon."""


@dataclass(frozen=True, slots=True)
class TrackerRules:
    """Seconds, scores and embedding distances.

    `high`: boxes from here up start and carry tracks; lower ones only carry. `same`: embeddings this near are one person for
    joining a track to a lost one. This far they are not: `stranger` from a track with one view, `settled` from one with MANY_VIEWS.
    """

    high: float
    same: float
    stranger: float
    settled: float
    keep_lost_s: float = 2.0
    keep_tentative_s: float = 0.4
    confirm_hits: int = 3

    def foreign(self, distance: float, views: int) -> bool:
        """Whether an embedding at that distance from a track's template, which rests on so many views, is another person's."""
        share = min(max(views - 1, 0) / (MANY_VIEWS - 1), 1.0)
        return distance > self.stranger + share * (self.settled - self.stranger)


@dataclass(slots=True, eq=False)
class Track:
    """One face on its way. States: tentative, confirmed, lost, removed. `box` and `score` are the last measured ones.

    `template` is the best knowledge of the face, set by whoever embeds; `views` is how many embeddings it rests on;
    `doubt` counts the last embeddings in a row that were a stranger's.
    """

    id: str
    motion: Motion
    box: NDArray[np.float32]
    score: float
    first_at: float
    seen_at: float
    state: str = "tentative"
    best_score: float = 0.0
    hits: int = 0
    template: Vector | None = None
    views: int = 0
    doubt: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What one frame changed. `owners[i]` is the track of detection i, None where it has none.

    `joined` holds pairs (kept, gone): a tentative track turned out to be the lost one.
    """

    owners: tuple[Track | None, ...]
    confirmed: tuple[Track, ...] = ()
    ended: tuple[Track, ...] = ()
    joined: tuple[tuple[Track, Track], ...] = ()


@dataclass(slots=True)
class _Frame:
    at: float
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    vectors: Sequence[Vector | None]
    owners: list[Track | None] = field(default_factory=list)


class Tracker:
    """Tracks of one stream. Ids are unique across restarts: a random prefix and a number."""

    def __init__(self, rules: TrackerRules) -> None:
        self.rules = rules
        self.tracks: list[Track] = []
        self._prefix = secrets.token_hex(4)
        self._count = 0
        self._at: float | None = None

    def update(self, at: float, boxes: NDArray[np.float32], scores: NDArray[np.float32], vectors: Sequence[Vector | None]) -> Step:
        """Carry on to time `at` (seconds, any clock that does not go back) with (N, 4) boxes, (N,) scores and N embeddings or None."""
        elapsed = max(at - self._at, 0.0) if self._at is not None else 0.0
        self._at = at
        for track in self.tracks:
            track.motion.predict(elapsed)
        frame = _Frame(at, boxes, scores, vectors, [None] * len(boxes))
        current = [track for track in self.tracks if track.state != "lost"]
        lost = [track for track in self.tracks if track.state == "lost"]
        high, low = np.nonzero(scores >= self.rules.high)[0].tolist(), np.nonzero(scores < self.rules.high)[0].tolist()
        self._match(frame, current, high, MARGIN)
        self._match(frame, [track for track in current if track.seen_at < at], low, 0.0)
        self._match(frame, lost, [index for index in high if frame.owners[index] is None], MARGIN)
        for index in high:
            if frame.owners[index] is None:
                self._start(frame, index)
        confirmed, joined = self._confirm()
        ended = self._expire(at)
        return Step(tuple(frame.owners), tuple(confirmed), tuple(ended), tuple(joined))

    def flush(self) -> tuple[Track, ...]:
        """End everything; the confirmed and lost tracks are returned."""
        ended = tuple(track for track in self.tracks if track.state != "tentative")
        for track in self.tracks:
            track.state = "removed"
        self.tracks, self._at = [], None
        return ended

    def _match(self, frame: _Frame, tracks: list[Track], indices: list[int], margin: float) -> None:
        if not tracks or not indices:
            return
        similarity = overlaps([track.motion.box for track in tracks], frame.boxes[indices].tolist(), margin)
        for row, track in enumerate(tracks):
            self._weigh_faces(similarity[row], frame, track, indices)
        for row, column in best_pairs(similarity, LEAST_OVERLAP):
            self._take(frame, tracks[row], indices[column])

    def _weigh_faces(self, row: list[float], frame: _Frame, track: Track, indices: list[int]) -> None:
        """Embeddings decide where they speak clearly; a box that does not touch the track stays out of reach."""
        if track.template is None:
            return
        lost = track.state == "lost"
        for column, index in enumerate(indices):
            vector = frame.vectors[index]
            if row[column] < LEAST_OVERLAP:
                continue
            if vector is None:
                if lost and frame.at - track.seen_at > LOST_WITHOUT_FACE_S:
                    row[column] = 0.0
                continue
            distance = _distance(track.template, vector)
            doubts = 1 if track.views > 1 else FIRST_DOUBTS
            if self.rules.foreign(distance, track.views) and (lost or track.doubt >= doubts):
                row[column] = 0.0
            else:
                row[column] += 0.5 + self.rules.same - min(distance, self.rules.same + 0.5)

    def _take(self, frame: _Frame, track: Track, index: int) -> None:
        vector = frame.vectors[index]
        frame.owners[index] = track
        track.motion.correct(frame.boxes[index])
        track.box, track.score, track.seen_at = frame.boxes[index], float(frame.scores[index]), frame.at
        track.best_score = max(track.best_score, track.score)
        track.hits += track.score >= self.rules.high
        if track.state == "lost":
            track.state = "confirmed"
        if vector is not None and track.template is not None:
            foreign = self.rules.foreign(_distance(track.template, vector), track.views)
            track.doubt = track.doubt + 1 if foreign else 0

    def _start(self, frame: _Frame, index: int) -> None:
        self._count += 1
        track = Track(f"{self._prefix}-{self._count}", Motion(frame.boxes[index]), frame.boxes[index], 0.0, frame.at, frame.at)
        self._take(frame, track, index)
        self.tracks.append(track)

    def _confirm(self) -> tuple[list[Track], list[tuple[Track, Track]]]:
        confirmed: list[Track] = []
        joined: list[tuple[Track, Track]] = []
        for track in [track for track in self.tracks if track.state == "tentative" and track.hits >= self.rules.confirm_hits]:
            known = self._lost_face(track)
            if known is None:
                track.state = "confirmed"
                confirmed.append(track)
            else:
                _join(known, track)
                self.tracks.remove(track)
                joined.append((known, track))
        return confirmed, joined

    def _lost_face(self, track: Track) -> Track | None:
        """The lost track that shows the same face, the nearest one."""
        if track.template is None:
            return None
        lost = [other for other in self.tracks if other.state == "lost" and other.template is not None]
        near = [(_distance(other.template, track.template), other) for other in lost if other.template is not None]
        distance, nearest = min(near, key=lambda pair: pair[0], default=(np.inf, None))
        return nearest if distance <= self.rules.same else None

    def _expire(self, at: float) -> list[Track]:
        ended: list[Track] = []
        for track in list(self.tracks):
            unseen = at - track.seen_at
            if track.state == "confirmed" and unseen > 0:
                track.state = "lost"
            too_long = self.rules.keep_tentative_s if track.state == "tentative" else self.rules.keep_lost_s
            if unseen > too_long:
                if track.state != "tentative":
                    ended.append(track)
                track.state = "removed"
                self.tracks.remove(track)
        return ended


def _join(kept: Track, gone: Track) -> None:
    kept.motion, kept.box, kept.score, kept.seen_at = gone.motion, gone.box, gone.score, gone.seen_at
    kept.best_score = max(kept.best_score, gone.best_score)
    kept.hits += gone.hits
    kept.doubt = 0
    kept.state, gone.state = "confirmed", "removed"


def _distance(first: Vector, second: Vector) -> float:
    return float(np.linalg.norm(first - second))
