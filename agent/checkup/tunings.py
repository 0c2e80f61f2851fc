"""Whether the models of the streams are tuned for this device as it is now."""

from __future__ import annotations

from agent.checkup import Check
from agent.settings import Settings
from agent.vision.face_kit import chosen_models
from engines.card import card
from engines.errors import EngineError
from engines.model import recipe
from engines.tuning import outdated, standing


def tunings(settings: Settings) -> list[Check]:
    """One for each model of the streams, where the settings leave the choice to the tuner."""
    engines = settings.engines
    if not settings.streams or (engines.backend, engines.unit, engines.precision) != ("auto", "auto", "auto"):
        return []
    return [_tuning(name, settings) for name in chosen_models(settings)]


def _tuning(name: str, settings: Settings) -> Check:
    label, policy = f"tuning {name}", settings.engines.policy
    advice = f"Run `almena tune {name}` while the device is idle; it takes about a minute."
    try:
        model = card(name)
        tuning, counts = standing(model, recipe(model), settings.engines_dir, policy)
        if tuning is None:
            return Check(label, "warn", f"nothing was compared for {policy} on this device yet", advice)
        if not counts:
            return Check(label, "warn", outdated(tuning), advice)
    except EngineError as error:
        return Check(label, "warn", str(error), advice)
    return Check(label, "ok", f"{tuning.choice}: {tuning.why}")
