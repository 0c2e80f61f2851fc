"""A classifier, loaded once for all streams that ask for the same."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from agent.settings import Settings
from agent.vision.face_kit import engine_options
from engines.model import Classifier, load_classifier

_lock = threading.Lock()
_kits: dict[Any, ClassifierKit] = {}
_loading: dict[Any, threading.Lock] = {}
"""Held for minutes where engines are built; `_lock` only for a moment."""


@dataclass(slots=True)
class ClassifierKit:
    """`open` and `close` go together; the last `close` frees the engine."""

    classifier: Classifier
    key: Any
    users: int = 0

    @staticmethod
    def open(settings: Settings, model: str) -> ClassifierKit:
        """The kit of this process for the card `model`. Raises EngineError."""
        key = _key(settings, model)
        with _lock:
            loading = _loading.setdefault(key, threading.Lock())
        with loading:
            kit = ClassifierKit.opened(settings, model)
            if kit is None:
                kit = ClassifierKit(load_classifier(model, engine_options(settings)), key, users=1)
                with _lock:
                    _kits[key] = kit
            return kit

    @staticmethod
    def opened(settings: Settings, model: str) -> ClassifierKit | None:
        """The kit, opened once more, if it is there already; never waits for a model."""
        with _lock:
            kit = _kits.get(_key(settings, model))
            if kit is not None:
                kit.users += 1
            return kit

    def engines(self) -> list[dict[str, Any]]:
        """The engine's passport, and why it is run so; what tasks answer."""
        passport = self.classifier.passport
        identity = passport.identity
        why = self.classifier.why
        return [{"model": identity.model, "backend": identity.backend, "why": why, **passport.model_dump(mode="json")}]

    def close(self) -> None:
        """Give it back."""
        with _lock:
            self.users -= 1
            if self.users == 0:
                del _kits[self.key]
                self.classifier.close()


def _key(settings: Settings, model: str) -> Any:
    return (settings.state_dir, settings.engines, model)
