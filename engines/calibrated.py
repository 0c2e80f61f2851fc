"""Calibrated models: QDQ files beside a record of how they were made."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from engines.card import ModelCard, names
from engines.errors import ModelFileError
from engines.files import replacing, sha256
from engines.parity import Parity

log = logging.getLogger(__name__)

Flavour = Literal["u8s8", "s8s8"]
FLAVOURS: tuple[Flavour, ...] = ("u8s8", "s8s8")
Ranges = Literal["minmax", "entropy", "percentile"]


class Accuracy(BaseModel):
    """A metric of a labelled set: of FP32 and of the candidate, 0..1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    reference: float
    candidate: float
    count: int
    data_sha256: str


class Calibration(BaseModel):
    """How a QDQ file was made.

    flavour: u8s8 has unsigned activations (x86); s8s8 symmetric signed ones without quantised biases (TensorRT, ARM).
    sensitivity: by node, the output noise when that node alone is quantised, over the noise when all are; largest first.
    float_nodes: nodes that were left in float so that the gate passes.
    sqnr_db: signal to quantisation noise of the outputs on samples that the ranges were not taken from.
    accuracy: by backend, the metrics of the labelled set's half that nothing was chosen by, the main one first; empty without such a set.
    parity: by backend, how far the outputs are from FP32's for samples that nothing was chosen by.
    refusals: how often these, or that half, refused another number of float nodes before; above 0 they took part in the choice so far.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """`<card name>@<sha256[:12]>`."""
    recipe: str
    """Digest of how the model is fed and converted."""
    flavour: Flavour
    ranges: Ranges
    frames: int
    frames_sha256: str
    float_nodes: tuple[str, ...]
    sensitivity: dict[str, float]
    sqnr_db: float
    accuracy: dict[str, tuple[Accuracy, ...]] = {}
    parity: dict[str, Parity] = {}
    refusals: int = 0
    made_at: str
    file: str
    file_sha256: str


def place(card: ModelCard, engines_dir: Path, flavour: Flavour) -> Path:
    """Where the QDQ file of a card belongs; its record lies beside it with the suffix .json."""
    return engines_dir / "calibrated" / f"{card.name}-{card.sha256[:12]}-{flavour}.onnx"


def find(card: ModelCard, recipe: str, engines_dir: Path, flavour: Flavour) -> tuple[Path, Calibration] | None:
    """The calibrated model of a card; None where there is none, or where it was made of another file or recipe.

    Raises ModelFileError where the file was damaged or replaced.
    """
    path = place(card, engines_dir, flavour)
    calibration = beside(path, card)
    if calibration is None or (calibration.model, calibration.recipe) != (card.model_id, recipe):
        return None
    require_sound(path, calibration, card)
    return path, calibration


def find_sound(card: ModelCard, recipe: str, engines_dir: Path, flavour: Flavour) -> tuple[Path, Calibration] | None:
    """As `find`, but None where the file was damaged: other precisions serve. Each damage is told once in a process."""
    try:
        return find(card, recipe, engines_dir, flavour)
    except ModelFileError as error:
        _warn(f"{error}; until then int8 is left out")
        return None


@cache
def _warn(text: str) -> None:
    log.warning("%s", text)


def require_sound(path: Path, calibration: Calibration, card: ModelCard | None = None) -> None:
    """Raise ModelFileError where a QDQ file is not the one that its record tells of."""
    if not path.is_file() or sha256(path) != calibration.file_sha256:
        raise ModelFileError(f"{path} is damaged, it is not what its record says: {_again(path, card)}")


def _again(path: Path, card: ModelCard | None) -> str:
    """Without the card, only those of the catalog are known by name."""
    name = path.stem.rsplit("-", 2)[0]
    known = f"run `almena calibrate {name} --frames DIR`" if name in names() else f"run `almena calibrate` again with the card of {name}"
    anew = card.advice("calibrate", "--frames DIR") if card else known
    return f"delete {path.name} and {path.with_suffix('.json').name} there and {anew}"


def beside(path: Path, card: ModelCard | None = None) -> Calibration | None:
    """The record of a QDQ file; None where none lies beside it. Raises ModelFileError where it cannot be read."""
    record = path.with_suffix(".json")
    if not record.exists():
        return None
    try:
        return Calibration.model_validate_json(record.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelFileError(f"{record} is damaged: {_again(path, card)}") from error


def save(calibration: Calibration, qdq: Path, target: Path) -> None:
    """Keep the file and its record, each whole or not at all; the record comes last."""
    record = target.with_suffix(".json")
    record.unlink(missing_ok=True)
    with replacing(target) as temporary:
        temporary.write_bytes(qdq.read_bytes())
    with replacing(record) as temporary:
        temporary.write_text(calibration.model_dump_json(indent=2) + "\n")
