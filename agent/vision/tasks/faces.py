"""Faces: detect, follow, recognise.

infer   detector ─► faces that still need a view ─► aligned chips ─► embedder         (several threads)
update  tracker ─► evidence ─► decision ─► cluster ─► events new, update, end         (one thread, in frame order)
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.datatypes import Event, Frame
from agent.settings import Settings
from agent.timing import latencies
from agent.vision.base import Task
from agent.vision.face_kit import FaceKit
from agent.vision.gallery_store import GalleryError
from agent.vision.kits import passport_of
from agent.vision.recognition import Judge, Vector, geometry, sharp_share
from agent.vision.tasks.faces_config import FacesConfig as FacesConfig
from agent.vision.tasks.faces_person import CLEARLY_BETTER, Kind, Person, Settled, new_person
from agent.vision.tracker.association import overlaps
from agent.vision.tracker.byte import Step, Track, Tracker, TrackerRules
from agent.vision.tracker.motion import Motion
from engines.results import Detections

log = logging.getLogger(__name__)

FAINT = 0.6
"""Of the least score: how faint a face may be to carry a track on (the low scores of ByteTrack)."""
COVERS, TOUCHES = 0.4, 0.15
"""Overlap from which a face is taken to be a track's, and from which it might be."""
JUMP_S = 1.0
"""A recording's clock that goes back by more than this has started again."""
MOST_PER_FRAME = 8
"""Embeddings per frame of a stream: a crowd gets its turn over several frames."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Faces of one frame; `embedded` are the indices of those with a vector (K, D), their geometry and quality (K,)."""

    faces: Detections
    embedded: tuple[int, ...]
    vectors: NDArray[np.float32]
    geometry: NDArray[np.float64]
    quality: NDArray[np.float64]
    detect_s: float
    embed_s: float


class FacesTask(Task):
    """Face events of one stream."""

    Config = FacesConfig

    def __init__(self, config: FacesConfig, stream: str, settings: Settings) -> None:
        self._config = config
        self._stream = stream
        self._kit = FaceKit.open(settings, config.detector, config.embedder)
        self.parallel = self._kit.detector.engine.parallel
        self._point = config.point(self._kit.point)
        self._high = config.score or self._kit.score
        self._model = f"{self._kit.detector.card.model_id} {self._kit.embedder.model_id}"
        point = self._point
        rules = TrackerRules(self._high, point.cluster, point.stranger, point.verify, config.keep_lost_s, confirm_hits=config.confirm_hits)
        self._tracker = Tracker(rules)
        self._people: dict[str, Person] = {}
        self._settled = Settled.of([])
        self._at = -np.inf
        self._counts = dict.fromkeys(("faces", "tracks", "embeddings", "gallery_errors"), 0)
        self._times: dict[str, deque[float]] = {"detect": deque(maxlen=500), "embed": deque(maxlen=500)}
        self._gallery_fails: dict[str, str] = {}
        self._closed = False

    def infer(self, frame: Frame) -> Prediction:
        """Detect, and embed the faces that still need a view. The tracks of earlier frames only spare work."""
        started = time.perf_counter()
        if frame.item is None:
            faces = self._kit.detector.detect(frame.image, FAINT * self._high)
        else:
            faces = self._kit.photograph(frame.image, self._high)
        detected = time.perf_counter()
        views = geometry(faces.boxes, faces.landmarks, frame.image.shape[1], frame.image.shape[0])
        wanted = self._wanted(faces, views, frame)
        if not wanted:
            nothing = np.zeros(0)
            return Prediction(faces, (), np.zeros((0, 0), np.float32), nothing, nothing, detected - started, 0.0)
        chips = [self._kit.embedder.chip(frame.image, faces.landmarks[index]) for index in wanted]
        quality = views[wanted] * np.array([sharp_share(chip) for chip in chips])
        vectors = self._kit.embed(chips)
        return Prediction(faces, tuple(wanted), vectors, views[wanted], quality, detected - started, time.perf_counter() - detected)

    def update(self, frame: Frame, prediction: Prediction) -> list[Event]:
        """Tracks, decisions and events."""
        self._count(prediction)
        self._guarded("read", self._kit.gallery.refresh)
        if frame.item is not None:
            return self._stills(frame, prediction)
        at = frame.clock_s
        events = self.flush(frame.captured_at, frame.mono_ns, "left") if at < self._at - JUMP_S else []
        self._at = at
        vectors: list[Vector | None] = [None] * len(prediction.faces)
        for place, index in enumerate(prediction.embedded):
            vectors[index] = prediction.vectors[place]
        step = self._tracker.update(at, prediction.faces.boxes, prediction.faces.scores, vectors)
        visible = self._see(frame, prediction, step, at)
        events += self._tell(frame, step, visible, at)
        self._settled = Settled.of(visible)
        self.annotations = tuple(person.annotation() for person in visible if person.track.state == "confirmed")
        return events

    def missed(self, frame: Frame) -> list[Event]:
        """Ends every open track once nothing was seen for as long as a track may be lost."""
        if not self._people or -JUMP_S <= frame.clock_s - self._at <= self._config.keep_lost_s:
            return []
        return self.flush(frame.captured_at, frame.mono_ns, "stream lost")

    def flush(self, captured_at: float, mono_ns: int, reason: str) -> list[Event]:
        """End every open track."""
        people = [self._people[track.id] for track in self._tracker.flush()]
        for person in people:
            self._conclude(person)
        events = [self._event(person.data("end", reason), captured_at, mono_ns) for person in people]
        self._people.clear()
        self._settled, self.annotations, self._at = Settled.of([]), (), -np.inf
        return events

    def metrics(self) -> dict[str, float]:
        """`…_total` since the start, `…_seconds` of the last 500 calls."""
        figures: dict[str, float] = {f"{name}_total": count for name, count in self._counts.items()}
        figures["tracks_open"] = sum(person.track.state != "tentative" for person in list(self._people.values()))
        for stage, times in self._times.items():
            figures |= latencies(stage, times)
        return figures

    def engines(self) -> list[dict[str, Any]]:
        """The passports of detector and embedder, and why they are run so."""
        return [passport_of(self._kit.detector), passport_of(self._kit.embedder)]

    def close(self) -> None:
        """Give engines and gallery back. Calling it twice does no harm."""
        if not self._closed:
            self._closed = True
            self._kit.close()

    def _wanted(self, faces: Detections, views: NDArray[np.float64], frame: Frame) -> list[int]:
        """Indices of faces to embed, the best views first."""
        sure = self._config.recognisable(faces, self._high)
        if frame.item is not None:
            return sure
        wanted = [index for index in sure if not self._served(faces.boxes[index].tolist(), views[index], frame.clock_s)]
        return sorted(wanted, key=lambda index: -views[index])[:MOST_PER_FRAME]

    def _served(self, box: list[float], view: float, at: float) -> bool:
        """Whether a face is surely that of a track that needs no such view now."""
        settled = self._settled
        shared = overlaps([box], settled.boxes)[0]
        if sum(share >= TOUCHES for share in shared) != 1 or max(shared) < COVERS:
            return False
        nearest = shared.index(max(shared))
        return at < settled.due[nearest] and view < CLEARLY_BETTER * settled.geometry[nearest]

    def _see(self, frame: Frame, prediction: Prediction, step: Step, at: float) -> list[Person]:
        """Bring every person in sight up to date."""
        places = {index: place for place, index in enumerate(prediction.embedded)}
        visible: list[Person] = []
        for kept, gone in step.joined:
            self._people[kept.id].absorb(self._people.pop(gone.id))
        joined = {gone.id: kept for kept, gone in step.joined}
        for index, owner in enumerate(step.owners):
            if owner is None:
                continue
            track = joined.get(owner.id, owner)
            person = self._people.get(track.id)
            if person is None:
                person = self._people[track.id] = new_person(track, Judge(self._point), frame.captured_at)
            person.seen_at = frame.captured_at
            person.frames += 1
            visible.append(person)
            if index in places:
                place = places[index]
                view, quality = float(prediction.geometry[place]), float(prediction.quality[place])
                person.look(prediction.vectors[place], view, quality, at, self._config.recheck_s)
        return visible

    def _tell(self, frame: Frame, step: Step, visible: list[Person], at: float) -> list[Event]:
        """Events of this frame: ends, then news and updates."""
        events: list[Event] = []

        def tell(person: Person, kind: Kind, reason: str | None = None) -> None:
            person.told_at, person.told_quality = at, person.evidence.best_quality
            events.append(self._event(person.data(kind, reason), frame.captured_at, frame.mono_ns))

        for track in step.ended:
            self._conclude(self._people[track.id])
            tell(self._people[track.id], "end", "left")
        for track in step.ended:
            del self._people[track.id]
        new = {track.id for track in step.confirmed}
        for person in visible:
            changed = person.assess(self._kit.gallery.candidates)
            if person.track.state != "confirmed":
                continue
            changed |= person.ripe and self._place(person, visible)
            better = person.evidence.best_quality > CLEARLY_BETTER * person.told_quality
            if person.track.id in new:
                tell(person, "new")
            elif changed or (better and at - person.told_at >= self._config.update_s):
                tell(person, "update")
        self._forget_tentative()
        self._counts["tracks"] += len(new)
        return events

    def _place(self, person: Person, others: Iterable[Person]) -> bool:
        """Give an unknown person a cluster; better evidence may lead to another, older one, but never to that of one of the `others` who
        was in the same frame. True when it changed."""
        clusters, before, template = self._kit.gallery.clusters, person.cluster, person.track.template
        if person.judge.decision.kind != "unknown" or template is None or not person.moved:
            return False
        beside = (other for other in others if other is not person and other.seen_at == person.seen_at)
        apart = {other.cluster for other in beside if other.cluster}
        if before is None or person.placed is None:
            cluster = self._guarded("written", clusters.assign, template, None, apart)
        else:
            cluster = self._guarded("written", clusters.follow, before, person.placed, template, None, apart)
        person.cluster, person.placed = cluster or before, template
        return person.cluster != before

    def _conclude(self, person: Person) -> None:
        """All evidence is there."""
        person.assess(self._kit.gallery.candidates)
        self._place(person, self._people.values())
        if person.cluster:
            self._guarded("written", self._kit.gallery.clusters.touch, person.cluster)

    def _forget_tentative(self) -> None:
        for id_ in [id_ for id_, person in self._people.items() if person.track.state == "removed"]:
            del self._people[id_]

    def _stills(self, frame: Frame, prediction: Prediction) -> list[Event]:
        """Every photograph stands alone: one `end` per face, with a key of its own, so that a repeat adds nothing."""
        item = hashlib.sha256(f"{self._stream}/{frame.item}".encode()).hexdigest()[:16]
        places = {index: place for place, index in enumerate(prediction.embedded)}
        events: list[Event] = []
        people: list[Person] = []
        for index in np.nonzero(prediction.faces.scores >= self._high)[0].tolist():
            box, score = prediction.faces.boxes[index], float(prediction.faces.scores[index])
            track = Track(f"{item}-{index}", Motion(box), box, score, 0.0, 0.0, "confirmed", score, 1)
            person = new_person(track, Judge.of_photograph(self._point), frame.captured_at)
            person.frames = 1
            if index in places:
                place = places[index]
                view, quality = float(prediction.geometry[place]), float(prediction.quality[place])
                person.look(prediction.vectors[place], view, quality, 0.0, 0.0)
                person.assess(self._kit.gallery.candidates)
                self._place(person, people)
            people.append(person)
            events.append(replace(self._event(person.data("end"), frame.captured_at, frame.mono_ns), key=f"face:{track.id}"))
        self._counts["tracks"] += len(events)
        self.annotations = tuple(person.annotation() for person in people)
        return events

    def _event(self, data: dict[str, Any], captured_at: float, mono_ns: int) -> Event:
        return Event(self._stream, "face", data, captured_at, mono_ns, self._model)

    def _count(self, prediction: Prediction) -> None:
        self._counts["faces"] += int(np.sum(prediction.faces.scores >= self._high))
        self._counts["embeddings"] += len(prediction.embedded)
        self._times["detect"].append(prediction.detect_s)
        if prediction.embedded:
            self._times["embed"].append(prediction.embed_s)

    def _guarded(self, access: Literal["read", "written"], action: Callable[..., Any], *arguments: Any) -> Any:
        """A gallery that cannot be read or written is counted, and told for as long as that lasts; the stream goes on without it."""
        try:
            result = action(*arguments)
        except GalleryError as error:
            if access not in self._gallery_fails:
                log.error("%s: the gallery cannot be %s: %s", self._stream, access, error)
            self._gallery_fails[access] = f"the gallery cannot be {access}: {error}"
            self._counts["gallery_errors"] += 1
            result = None
        else:
            if result is not False and access in self._gallery_fails:
                del self._gallery_fails[access]
                log.info("%s: the gallery can be %s again", self._stream, access)
        self.impaired = "; ".join(self._gallery_fails.values())
        return result
