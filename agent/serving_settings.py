"""Models over HTTP."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from agent.config import CardName, Config, matching

ServedName = Annotated[
    str, matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "be letters, digits, dots, dashes and underscores, at most 100, the first no sign")
]


class ServedModelSettings(Config):
    """One model that is served over HTTP besides those of the streams."""

    name: ServedName = Field(description="In its address: /v2/models/<name>.", examples=["my-model"])
    card: CardName = Field(
        description="A card of the catalogue (`almena models list`), or the path of a card file.", examples=["blazeface-short"]
    )
    batch: int = Field(8, ge=1, le=256, description="Pictures that a call of its engine may take at once.")
    max_delay_ms: float = Field(2.0, ge=0, le=1000, description="How long a picture waits for others while the engine is busy.")
    queue: int = Field(64, ge=1, le=4096, description="Pictures that may wait, and that a request may have; beyond them: 429.")


class ServingSettings(Config):
    """Models over HTTP, at the page's address: Open Inference Protocol v2 and TensorFlow Serving's predict."""

    streams: bool = Field(True, description="The models of the streams are served too, with the same engines, by their cards' names.")
    templates: bool = Field(False, description="Serve face embedders: whoever may use the page can then have face templates.")
    timeout_s: float = Field(10.0, gt=0, le=600, description="A request that is not answered by then gets 503.")
    models: tuple[ServedModelSettings, ...] = Field((), description="Further models.")

    @field_validator("models")
    @classmethod
    def _unique(cls, models: tuple[ServedModelSettings, ...]) -> tuple[ServedModelSettings, ...]:
        names = [model.name for model in models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names of served models must differ; given twice: {', '.join(twice)}")
        return models
