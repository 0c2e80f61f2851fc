"""The model cards that settings name."""

from __future__ import annotations

from agent.settings import Settings
from engines.card import card, card_for
from engines.errors import EngineError

PARTS = {"detector": "face-detection", "embedder": "face-embedding", "model": "classification"}


def unusable(settings: Settings) -> list[str]:
    """Where a card is named that is not there, or is for another task, and what is wrong with it; a line each."""
    named = [
        (f"streams.{stream.name}.{part}", getattr(task, part), kind)
        for stream in settings.streams
        for task in stream.tasks
        for part, kind in PARTS.items()
        if hasattr(task, part)
    ]
    served = [(f"serving.models.{model.name}", model.card, None) for model in settings.serving.models]
    problems = []
    for place, name, kind in (*named, *served):
        try:
            card_for(name, kind) if kind else card(name)
        except EngineError as error:
            problems.append(f"{place}: {error}")
    return problems
