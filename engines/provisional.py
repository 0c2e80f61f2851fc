"""Cards for bare model files: what the file says, and loud assumptions about the rest."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import yaml

from engines.base import TensorSpec
from engines.card import LONGEST_NAME, ModelCard
from engines.convert.inspect import Tensors, format_of, inspect
from engines.errors import ModelFileError
from engines.fetch import several
from engines.files import sha256, sha256_of


@dataclass(frozen=True, slots=True)
class Provisional:
    """A card that a user still has to complete, and what was assumed in it."""

    card: ModelCard
    assumed: tuple[str, ...]

    def as_yaml(self) -> str:
        """The card's file, with the assumptions as comments at its head."""
        head = "".join(f"# {line}\n" for line in ("A provisional card. Check and complete:", *(f"- {one}" for one in self.assumed)))
        return head + yaml.safe_dump(self.card.model_dump(mode="json", exclude_defaults=True), sort_keys=False, width=120)


def provisional(path: Path, size: tuple[int, int] | None = None) -> Provisional:
    """The card of a classifier of one picture. `size`: (width, height), needed where the file leaves them free.

    Raises ModelFileError where the file is no such model; the message names its inputs or outputs and what to do.
    """
    kind = format_of(path)
    tensors = inspect(path, kind)
    layout, channels, sizes = _picture(path, tensors, size)
    output = _classes(path, tensors)
    count = prod(one or 1 for one in output.shape[1:])
    labels = ["negative", "positive"] if count == 1 else [f"class-{number}" for number in range(count)]
    parts = several(path)
    card = ModelCard.model_validate({
        "name": re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:LONGEST_NAME] or "model",
        "version": "provisional",
        "title": path.name,
        "task": "classification",
        "licence": "unknown",
        "training_data": "unknown",
        "source": {"kind": "local", "path": str(path.resolve())},
        "sha256": sha256_of(parts) if parts is not None else sha256(path),
        "format": kind,
        "input": {"layout": layout, "colour": "GREY" if channels == 1 else "RGB", "sizes": [sizes], "resize": "stretch"},
        "decoder": {"name": "classification", "params": {"output": output.name, "activation": "none"}},
        "labels": labels,
        "thresholds": {"chosen_on": "nothing: the card is provisional"},
        "allowance": {"probability": 0.02, "agreement": 0.95},
    })  # fmt: skip
    shape, kept = f" --shape {size[0]}x{size[1]}" if size else "", f"{path.stem}.yaml"
    first = f"keep a card with `almena build {shlex.quote(str(path))}{shape} --write-card {shlex.quote(kept)}`, complete it, and "
    return Provisional(card.typed(kept, first), _assumed(card, tensors.inputs[0], output))


def _picture(path: Path, tensors: Tensors, size: tuple[int, int] | None) -> tuple[Literal["NCHW", "NHWC"], int, tuple[int, int]]:
    """Layout, channels and (width, height) of the one input."""
    named = ", ".join(f"{one.name!r} {one.dtype} {_shown(one)}" for one in tensors.inputs) or "none"
    if len(tensors.inputs) != 1 or len(tensors.inputs[0].shape) != 4:
        raise ModelFileError(f"{path.name} has the inputs {named}, not one picture of four dimensions; export it with that input alone")
    (only,) = tensors.inputs
    if only.dtype != "float32":
        raise ModelFileError(
            f"{path.name}: input {only.name!r} is {only.dtype}, and what its numbers mean cannot be guessed:"
            " export it with a float32 input, or write a card (docs/engines.md)"
        )
    last, second = only.shape[3] in (1, 3), only.shape[1] in (1, 3)
    if last == second:
        raise ModelFileError(
            f"{path.name}: input {only.name!r} {_shown(only)} has no one dimension of 1 or 3 channels; write a card for it"
        )
    height, width = only.shape[1:3] if last else only.shape[2:4]
    channels = only.shape[3] if last else only.shape[1]
    assert channels is not None
    if size is None and (height is None or width is None):
        raise ModelFileError(f"{path.name}: input {only.name!r} {_shown(only)} leaves height or width free: give --shape WIDTHxHEIGHT")
    if size is not None and any(have not in (None, want) for have, want in zip((width, height), size, strict=True)):
        raise ModelFileError(
            f"{path.name}: input {only.name!r} is {_shown(only)}, which {size[0]}x{size[1]} pixels do not fit; leave out --shape"
        )
    return ("NHWC" if last else "NCHW"), channels, size or (int(width or 0), int(height or 0))


def _classes(path: Path, tensors: Tensors) -> TensorSpec:
    """The one output, a row of numbers for each picture."""
    named = ", ".join(f"{one.name!r} {_shown(one)}" for one in tensors.outputs) or "none"
    row = [one or 0 for one in tensors.outputs[0].shape[1:]] if len(tensors.outputs) == 1 else []
    if not row or prod(row) != max(row) or not prod(row):
        raise ModelFileError(
            f"{path.name} has the outputs {named}; only a classifier's, one row of numbers for each picture, can be guessed:"
            " write a card that names its task and decoder (docs/engines.md)"
        )
    return tensors.outputs[0]


def _assumed(card: ModelCard, only: TensorSpec, output: TensorSpec) -> tuple[str, ...]:
    colour = "red, green, blue" if card.input.channels == 3 else "grey"
    width, height = card.input.sizes[0]
    return (
        f"input {only.name!r} {_shown(only)} is one picture, {card.input.layout}, {colour}, stretched to {width}x{height}",
        "its numbers are the pixels' own, 0 to 255: no mean is taken off, nothing is scaled",
        f"output {output.name!r} {_shown(output)} holds probabilities of {len(card.labels)} classes (else: activation softmax or sigmoid)",
        "the names and the order of the labels; which of them is the positive one",
        "licence, training data, thresholds and what a faster engine may lose",
    )  # fmt: skip


def _shown(spec: Any) -> str:
    return "(" + ", ".join("free" if size is None else str(size) for size in spec.shape) + ")"
