"""Settings of the task `study`, apart from it: who only reads the settings loads neither numpy nor an engine's code."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from agent.config import CardName, Config


class StudyConfig(Config):
    """Settings of the task `study`."""

    goes_with: ClassVar[str] = "dicom"

    type: Literal["study"] = "study"
    model: CardName = Field("chest-xray", description="A model card for classification that names its positive class and its score.")
    threshold: float | None = Field(
        None, gt=0, lt=1, description="Score from which the answer is the positive class; default: the card's.", examples=[0.5]
    )
    margin: float = Field(0.05, ge=0, lt=0.5, description="No answer where the scores are by less than this from another answer.")
    pixels: bool = Field(True, description="No answer for a picture that does not look like a frontal chest radiograph.")
    unfamiliar: bool = Field(
        True, description="No answer for a picture unlike those that the model has learned from, if its card can tell."
    )
    heat_map: bool = Field(True, description="Show in a picture where the model saw what it answered.")
    heat_map_s: float = Field(3.0, gt=0, le=60, description="Seconds that this may take where the model has no maps of its own.")
