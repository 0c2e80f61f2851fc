"""Conversions of fetched model files to ONNX. A converter's name ends with a number that grows when its output changes."""

from __future__ import annotations

from pathlib import Path

from engines.card import ModelCard
from engines.files import replacing
from engines.registry import CONVERTERS, resolve


def converted(card: ModelCard, fetched: Path) -> Path:
    """The file that backends read: `fetched` itself, or its conversion, which is kept beside it under the hash of its source."""
    if card.converter is None:
        return fetched
    target = fetched.parent / "converted" / f"{card.name}-{card.sha256[:12]}-{card.converter}.onnx"
    if not target.exists():
        converter = resolve(CONVERTERS, card.converter, "converter")()
        with replacing(target) as temporary:
            converter.convert(fetched, temporary)
    return target
