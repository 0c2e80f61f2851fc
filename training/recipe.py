"""Recipes: everything that a training depends on besides the pictures."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engines.card import Allowance, ModelInput, parsed
from engines.registry import unknown
from training.augment import Augmentation
from training.errors import TrainingError

NetworkName = Literal["compact", "mobilenet-v2", "resnet-50", "resnet-152", "xception", "vgg-16", "efficientnet-b0", "efficientnet-lite0"]


CAFFE: dict[str, Any] = {"colour": "BGR", "mean": [103.939, 116.779, 123.68], "scale": [1.0]}
CENTRED: dict[str, Any] = {"colour": "RGB", "mean": [127.5], "scale": [127.5]}
FEEDS: dict[str, dict[str, Any]] = {
    "mobilenet-v2": CENTRED,
    "resnet-50": CAFFE,
    "resnet-152": CAFFE,
    "xception": CENTRED,
    "vgg-16": CAFFE,
    "efficientnet-b0": {"colour": "RGB", "mean": [0.0], "scale": [1.0]},
    "efficientnet-lite0": {"colour": "RGB", "mean": [127.0], "scale": [128.0]},
}
"""What the ImageNet weights were trained on."""
BASE_SIDE = 224


LEARNING = frozenset(
    ("precision", "dropout", "epochs", "batch", "rate", "warmup", "weight_decay", "label_smoothing", "mixup", "averaging", "patience")
)
"""Keys of a recipe for networks that learn step by step."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CardText(_Part):
    """What the card of a network that this recipe trains says, besides what the training finds out."""

    title: str
    licence: str
    training_data: str
    intended_use: str = ""
    known_limits: str = ""


class FineTuning(_Part):
    """A second stage after that of the head: `layers` at the end of the base learn too, from `rate` on; normalisations stay as they are."""

    epochs: int = Field(gt=0)
    layers: int = Field(gt=0)
    rate: float = Field(1e-5, gt=0)


class Discriminant(_Part):
    """A head in closed form on the frozen base: the linear discriminant of pooled features (`training.discriminant`).

    `shrinkage`: of the covariance towards that of a ball. `views`: how many times each picture is looked at; from the second time on it is
    changed as `augmentation` says.
    """

    shrinkage: float = Field(0.5, gt=0, le=1)
    views: int = Field(4, gt=0)


class Recipe(_Part):
    """How a classifier is trained.

    `labels` in the order of its output. `widths`: channels of the compact network's stages, of which each but the last halves the picture.
    `precision` of its convolutions while it learns: bfloat16 is faster where the processor computes in it; weights stay float32.
    `rate` climbs for `warmup` epochs and then falls as half a cosine to nothing (Loshchilov and Hutter, ICLR 2017). `class_weights` is
    the exponent of the classes' rarity: 0 not weighed, 1 each class counts the same. `mixup`: alpha of Zhang et al., ICLR 2018; 0: none.
    `averaging`: of the exponential average of the weights, which is what is validated and kept; 0: the weights themselves.
    `taps`: the stages of efficientnet-lite0, from 0, whose channels and squares are the features.
    `head`: in closed form, instead of a learned one.
    `patience`: epochs without a lower validation loss before it ends early. `folds`: networks that are each trained without one fold of
    patient groups; 0: one network on everything. `sensitivity`: what the operating point of the class `positive` must reach out of fold.
    """

    card: CardText
    labels: tuple[str, ...] = Field(min_length=2)
    positive: str | None = None
    sensitivity: float = Field(0.95, gt=0, lt=1)
    network: NetworkName = "compact"
    input: ModelInput
    precision: Literal["float32", "bfloat16"] = "float32"
    widths: tuple[int, ...] = Field((16, 32, 64, 96, 128), min_length=2)
    standardise: bool = True
    dropout: float = Field(0.2, ge=0, lt=1)
    epochs: int = Field(50, gt=0)
    batch: int = Field(32, gt=0)
    rate: float = Field(1e-3, gt=0)
    warmup: float = Field(2.0, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mixup: float = Field(0.0, ge=0)
    class_weights: float = Field(1.0, ge=0, le=1)
    averaging: float = Field(0.0, ge=0, lt=1)
    patience: int = Field(20, gt=0)
    taps: tuple[Annotated[int, Field(ge=0, le=6)], ...] = Field((2, 3, 4), min_length=1)
    head: Discriminant | None = None
    fine_tuning: FineTuning | None = None
    augmentation: Augmentation = Augmentation()
    folds: int = Field(5, ge=0)
    seed: int = 1
    allowance: Allowance

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        if self.positive is not None and self.positive not in self.labels:
            raise ValueError("positive must be one of the labels")
        if self.head and (self.network == "compact" or self.fine_tuning):
            raise ValueError("head needs a base network that stays as it is: no compact network, no fine_tuning")
        if self.head and (useless := self.model_fields_set & LEARNING):
            raise ValueError(f"with head, which is fitted in closed form, there is no use for {', '.join(sorted(useless))}")
        if self.folds == 1:
            raise ValueError("folds must be 0 or at least 2")
        return self

    @property
    def positive_place(self) -> int | None:
        """Of the positive class among the labels."""
        return None if self.positive is None else self.labels.index(self.positive)


def names() -> list[str]:
    """All recipes that come with Almena."""
    found = [entry.name for entry in (resources.files("training") / "recipes").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))


def load(name: str, changes: dict[str, Any] | None = None) -> Recipe:
    """The recipe of that name, or of that file where `name` ends with .yaml, with some of its keys changed.

    With another network comes the input that its weights were trained on.

    Raises UnknownNameError, TrainingError.
    """
    own = name.endswith((".yaml", ".yml"))
    if not own and name not in names():
        raise unknown(name, names(), "recipe")
    try:
        text = (Path(name) if own else resources.files("training") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        content = parsed(text)
        return Recipe.model_validate(_changed(content, changes or {}) if isinstance(content, dict) else content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"recipe {name}: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'recipe'}: {fault['msg']}" for fault in error.errors())
        raise TrainingError(f"recipe {name}: {wrong}") from error


def _changed(content: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    network = changes.get("network", content.get("network"))
    if network == content.get("network") or network not in FEEDS:
        return content | changes
    feed = {"layout": "NHWC", "sizes": [[BASE_SIDE, BASE_SIDE]], "resize": content.get("input", {}).get("resize", "stretch")}
    return content | changes | {"input": feed | FEEDS[network]}
