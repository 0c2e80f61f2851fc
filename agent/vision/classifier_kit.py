"""A classifier, loaded once for all streams that ask for the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.settings import Settings
from agent.vision.face_kit import engine_options
from agent.vision.kits import Kits, passport_of
from engines.model import Classifier, load_classifier

_kits: Kits[ClassifierKit] = Kits(lambda kit: kit.classifier.close())


@dataclass(slots=True)
class ClassifierKit:
    """`open` and `close` go together; the last `close` frees the engine."""

    classifier: Classifier
    key: Any

    @staticmethod
    def open(settings: Settings, model: str) -> ClassifierKit:
        """The kit of this process for the card `model`. Raises EngineError."""
        key = _key(settings, model)
        return _kits.open(key, lambda: ClassifierKit(load_classifier(model, engine_options(settings)), key))

    @staticmethod
    def opened(settings: Settings, model: str) -> ClassifierKit | None:
        """The kit, opened once more, if it is there already; never waits for a model."""
        return _kits.opened(_key(settings, model))

    @property
    def models(self) -> dict[str, Classifier]:
        """By the name that the settings have for it."""
        return {self.key[-1]: self.classifier}

    def engines(self) -> list[dict[str, Any]]:
        """The passport of its engine."""
        return [passport_of(self.classifier)]

    def close(self) -> None:
        """Give it back."""
        _kits.close(self.key)


def open_kits() -> list[ClassifierKit]:
    """Every kit of this process, opened once more: close each."""
    return _kits.all_opened()


def _key(settings: Settings, model: str) -> Any:
    return (settings.state_dir, settings.engines, model)
