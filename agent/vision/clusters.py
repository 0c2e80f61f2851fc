"""Pseudonymous clusters of unknown persons: the same stranger gets the same `u-xxxxxx` again, for a day, without a name or a picture."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.settings import ClusterSettings
from agent.vision.gallery_store import Store
from agent.vision.recognition import Vector

VIEWS = 5
"""Templates that a cluster keeps."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One unknown person. vectors: (N, D) float32 of the embedder `model`."""

    id: str
    model: str
    vectors: NDArray[np.float32]
    sightings: int
    created_at: float
    seen_at: float


class Clusters:
    """Clusters of one gallery. `model` is the embedder in use, `radius` the distance within which two templates are one person."""

    def __init__(self, store: Store, settings: ClusterSettings, model: str | None, radius: float) -> None:
        self._store = store
        self._settings = settings
        self._model = model
        self._radius = radius
        self._clusters: dict[str, Cluster] = {}
        self.reload()

    def reload(self) -> None:
        """Read all clusters anew; without the setting, what there is goes."""
        if not self._settings.enabled:
            with self._store.write():
                self._store.execute("DELETE FROM clusters")
        rows = self._store.rows("SELECT id, model, vectors, sightings, created_at, seen_at FROM clusters")
        with self._store.lock:
            self._clusters = {
                id_: Cluster(id_, model, self._store.unseal_vectors(sealed, f"cluster {id_}"), *figures)
                for id_, model, sealed, *figures in rows
            }

    def all(self) -> list[Cluster]:
        """Every cluster, the last seen first."""
        with self._store.lock:
            return sorted(self._clusters.values(), key=lambda cluster: -cluster.seen_at)

    def get(self, cluster: str) -> Cluster | None:
        """By id."""
        return self._clusters.get(cluster)

    def assign(self, vector: Vector, now: float | None = None, apart: Collection[str] = ()) -> str | None:
        """The id for an unknown person's template: of the nearest cluster within the radius, else a new one. None when switched off.

        `apart`: clusters of people who were in the same picture, and are therefore others.
        """
        if not self._settings.enabled or self._model is None:
            return None
        now = time.time() if now is None else now
        with self._store.lock:
            nearest = self._nearest(vector, self._own(apart))
            if nearest is None:
                cluster = Cluster(f"u-{secrets.token_hex(3)}", self._model, vector[None], 1, now, now)
                while cluster.id in self._clusters:
                    cluster = replace(cluster, id=f"u-{secrets.token_hex(3)}")
            else:
                cluster = replace(_with_view(nearest, vector, self._radius / 2), sightings=nearest.sightings + 1, seen_at=now)
            self._save(cluster)
            self._limit()
            return cluster.id

    def follow(self, cluster: str, before: Vector, vector: Vector, now: float | None = None, apart: Collection[str] = ()) -> str | None:
        """The id that `cluster` has from now on: a track that gave it `before` gives the better template `vector` instead.

        If that shows the person of another cluster that is not `apart`, the two become one under the older id. An id that is gone is
        assigned anew.
        """
        now = time.time() if now is None else now
        with self._store.lock:
            known = self._clusters.get(cluster)
            if known is None or known.model != self._model:
                return self.assign(vector, now, apart)
            kept = known.vectors[np.any(known.vectors != before, axis=1)]
            merged = _with_view(replace(known, vectors=kept, seen_at=now), vector, self._radius / 2)
            other = self._nearest(vector, self._own({cluster, *apart}))
            if other is not None:
                merged = _merged(merged, other, self._radius / 2)
                self.erase(cluster if merged.id == other.id else other.id)
            self._save(merged)
            return merged.id

    def touch(self, cluster: str, now: float | None = None) -> None:
        """The person is still here."""
        with self._store.lock:
            known = self._clusters.get(cluster)
            if known is not None:
                self._save(replace(known, seen_at=time.time() if now is None else now))

    def erase(self, cluster: str) -> bool:
        """Forget one. False if there is none of that id."""
        with self._store.lock:
            known = self._clusters.pop(cluster, None)
            with self._store.write():
                self._store.execute("DELETE FROM clusters WHERE id = ?", cluster)
        return known is not None

    def erase_near(self, vectors: NDArray[np.float32], model: str, radius: float) -> int:
        """Forget all that may show the person of these templates; how many."""
        near = [
            cluster.id
            for cluster in self.all()
            if cluster.model == model and len(vectors) and _distances(cluster.vectors, vectors).min() <= radius
        ]
        for cluster in near:
            self.erase(cluster)
        return len(near)

    def expire(self, now: float | None = None) -> int:
        """Forget those that nobody matched for `max_age_s`; how many."""
        oldest = (time.time() if now is None else now) - self._settings.max_age_s
        old = [row[0] for row in self._store.rows("SELECT id FROM clusters WHERE seen_at < ?", oldest)]
        for cluster in old:
            self.erase(cluster)
        return len(old)

    def _own(self, but: Collection[str]) -> list[Cluster]:
        return [cluster for cluster in self._clusters.values() if cluster.model == self._model and cluster.id not in but]

    def _nearest(self, vector: Vector, own: list[Cluster]) -> Cluster | None:
        if not own:
            return None
        sizes = [len(cluster.vectors) for cluster in own]
        distances = np.linalg.norm(np.concatenate([cluster.vectors for cluster in own]) - vector, axis=1)
        best = int(np.argmin(distances))
        if distances[best] > self._radius:
            return None
        return own[int(np.searchsorted(np.cumsum(sizes), best, side="right"))]

    def _save(self, cluster: Cluster) -> None:
        sealed = self._store.seal_vectors(cluster.vectors, f"cluster {cluster.id}")
        with self._store.write():
            self._store.execute(
                "INSERT OR REPLACE INTO clusters VALUES (?, ?, ?, ?, ?, ?)",
                *(cluster.id, cluster.model, sealed, cluster.sightings, cluster.created_at, cluster.seen_at),
            )
        self._clusters[cluster.id] = cluster

    def _limit(self) -> None:
        for cluster in self.all()[self._settings.max_count :]:
            self.erase(cluster.id)


def _with_view(cluster: Cluster, vector: Vector, novel: float) -> Cluster:
    near = float(_distances(cluster.vectors, vector[None]).min(initial=np.inf))
    if len(cluster.vectors) >= VIEWS or near < novel:
        return cluster
    return replace(cluster, vectors=np.concatenate([cluster.vectors, vector[None]]))


def _merged(first: Cluster, second: Cluster, novel: float) -> Cluster:
    older, younger = sorted((first, second), key=lambda cluster: cluster.created_at)
    for vector in younger.vectors:
        older = _with_view(older, vector, novel)
    return replace(older, sightings=first.sightings + second.sightings, seen_at=max(first.seen_at, second.seen_at))


def _distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = np.linalg.norm(first[:, None] - second[None], axis=2)
    return distances
