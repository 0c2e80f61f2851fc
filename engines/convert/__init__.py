"""Conversions of model files. A converter's name ends with a number that grows when its output changes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from engines.card import SUFFIXES, Format, ModelCard
from engines.convert.inspect import format_of
from engines.errors import ModelFileError
from engines.files import replacing, sha256
from engines.registry import CONVERSIONS, CONVERTERS, resolve
from engines.stages import Stage, unsaid

log = logging.getLogger(__name__)


class Converter(Protocol):
    """Turns a model file into one of another format."""

    def convert(self, source: Path, target: Path) -> None:
        """Write `target`, a file or a folder. Raises ModelFileError, MissingRuntimeError."""


def converted(card: ModelCard, fetched: Path, formats: Sequence[Format] = ("onnx",), stage: Stage = unsaid) -> tuple[Path, Format]:
    """The model in the first of `formats` that can be had with the fewest conversions, and which that is.

    That is `fetched` itself, or a conversion, which is kept beside it under the hash of its source. Its own hash lies beside it: a
    conversion that was damaged or replaced is made anew. Raises ModelFileError where no format can be had, or the file is of another
    format than its card says.
    """
    if card.converter is None and fetched.is_file():
        try:
            format_of(fetched)
        except ModelFileError as error:
            raise ModelFileError(f"{card.name} (`format: {card.format}` by its card): {error}") from error
    path, wanted = fetched, card.format
    for name, produced in route(card, formats):
        path, wanted = _step(card, path, name, produced, stage), produced
    return path, wanted


def route(card: ModelCard, formats: Sequence[Format]) -> tuple[tuple[str, Format], ...]:
    """The fewest conversions to one of `formats`, each by name and what it makes. Raises ModelFileError where there is no way."""
    routes = [found for wanted in formats if (found := _route(card, wanted)) is not None]
    if not routes:
        raise ModelFileError(f"{card.name}: a {card.format} model cannot be turned into {' or '.join(formats)}; choose another backend")
    return min(routes, key=len)


def reachable(card: ModelCard, wanted: Format) -> bool:
    """Whether the card's model is in that format or can be converted to it."""
    return _route(card, wanted) is not None


def _route(card: ModelCard, wanted: Format) -> tuple[tuple[str, Format], ...] | None:
    """The fewest conversions to that format; None where there is no way."""
    if card.converter is not None:
        return ((card.converter, "onnx"),) if wanted == "onnx" else None
    known: dict[Format, tuple[tuple[str, Format], ...]] = {card.format: ()}
    edge = [card.format]
    while edge and wanted not in known:
        here = edge.pop(0)
        for (source, produced), name in CONVERSIONS.items():
            if source == here and produced not in known:
                known[produced] = (*known[here], (name, produced))
                edge.append(produced)
    return known.get(wanted)


def outstanding(card: ModelCard, fetched: Path, formats: Sequence[Format]) -> tuple[Path, tuple[str, ...]]:
    """How far the conversions of `route` are kept from before, `fetched` where none is, and the names of those to come."""
    path, steps = fetched, route(card, formats)
    for done, (name, produced) in enumerate(steps):
        kept = _target(card, path, name, produced)
        if not kept.exists():
            return path, tuple(name for name, _ in steps[done:])
        path = kept
    return path, ()


def _target(card: ModelCard, source: Path, name: str, produced: Format) -> Path:
    """Where a conversion is kept."""
    folder = source.parent if source.parent.name == "converted" else source.parent / "converted"
    return folder / f"{card.name}-{card.sha256[:12]}-{name}{SUFFIXES[produced]}"


def _step(card: ModelCard, source: Path, name: str, produced: Format, stage: Stage) -> Path:
    target = _target(card, source, name, produced)
    digest = target.with_name(f"{target.name}.sha256")
    if target.exists() and digest.exists() and digest.read_text(encoding="ascii", errors="replace") == sha256(target):
        return target
    log.info("%s is converted%s", card.name, " anew: what was kept is not what was made" if target.exists() else "")
    stage("convert")
    converter: Converter = resolve(CONVERTERS, name, "converter")()
    with replacing(target) as temporary:
        converter.convert(source, temporary)
        made = sha256(temporary)
    with replacing(digest) as temporary:
        temporary.write_text(made, encoding="ascii")
    return target
