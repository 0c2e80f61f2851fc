"""What is loaded once for all streams that ask for the same."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from engines.model import Classifier, FaceDetector, FaceEmbedder

Kit = TypeVar("Kit")


class Kits(Generic[Kit]):
    """Kits of one kind, by key. Who opens one closes it; the last `close` frees it. Thread-safe."""

    def __init__(self, free: Callable[[Kit], None]) -> None:
        self._free = free
        self._lock = threading.Lock()
        self._kits: dict[Hashable, Kit] = {}
        self._users: Counter[Hashable] = Counter()
        self._loading: dict[Hashable, threading.Lock] = {}
        """Held for minutes where engines are built; `_lock` only for a moment."""

    def open(self, key: Hashable, load: Callable[[], Kit]) -> Kit:
        """The kit, loaded if it is not there."""
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            kit = self.opened(key)
            if kit is None:
                kit = load()
                with self._lock:
                    self._kits[key] = kit
                    self._users[key] = 1
            return kit

    def opened(self, key: Hashable) -> Kit | None:
        """The kit, opened once more, if it is there already; never waits for a model."""
        with self._lock:
            if key in self._kits:
                self._users[key] += 1
            return self._kits.get(key)

    def all_opened(self) -> list[Kit]:
        """Every kit, opened once more: close each."""
        with self._lock:
            self._users.update(list(self._kits))
            return list(self._kits.values())

    def close(self, key: Hashable) -> None:
        """Give it back."""
        with self._lock:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                self._free(self._kits.pop(key))


def passport_of(model: FaceDetector | FaceEmbedder | Classifier) -> dict[str, Any]:
    """The passport of a model's engine, and why it is run so; what tasks answer to `engines`."""
    passport = model.passport
    identity = passport.identity
    return {"model": identity.model, "backend": identity.backend, "why": model.why, **passport.model_dump(mode="json")}
