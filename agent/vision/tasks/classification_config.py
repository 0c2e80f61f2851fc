"""Settings of the task `classification`, apart from it: who only reads the settings loads neither numpy nor an engine's code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.config import CardName, Config


class ClassificationConfig(Config):
    """Settings of the task `classification`."""

    type: Literal["classification"] = "classification"
    model: CardName = Field(
        description="A model card for classification, or the path of a card file; `almena models list` shows those of the catalogue.",
        examples=["chest-xray"],
    )
    threshold: float | None = Field(
        None, gt=0, lt=1, description="Score from which the answer is the positive class; default: the card's.", examples=[0.5]
    )
    margin: float = Field(0.05, ge=0, lt=0.5, description="An answer that holds is given up only for one that is ahead of it by so much.")
    hold_s: float = Field(1.0, ge=0, le=3600, description="An answer is told when every frame gave it for so long; photographs: at once.")
    update_s: float = Field(60.0, ge=1, description="An answer that goes on is told again after so long.")
