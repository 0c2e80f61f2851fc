"""Conversions of fetched model files to ONNX. A converter's name ends with a number that grows when its output changes."""

from __future__ import annotations

import logging
from pathlib import Path

from engines.card import ModelCard
from engines.files import replacing, sha256
from engines.registry import CONVERTERS, resolve

log = logging.getLogger(__name__)


def converted(card: ModelCard, fetched: Path) -> Path:
    """The file that backends read: `fetched` itself, or its conversion, which is kept beside it under the hash of its source.

    Its own hash lies beside it: a conversion that was damaged or replaced is made anew.
    """
    if card.converter is None:
        return fetched
    target = fetched.parent / "converted" / f"{card.name}-{card.sha256[:12]}-{card.converter}.onnx"
    digest = target.with_name(f"{target.name}.sha256")
    if target.exists() and digest.exists() and digest.read_text(encoding="ascii", errors="replace") == sha256(target):
        return target
    log.info("%s is converted%s", card.name, " anew: what was kept is not what was made" if target.exists() else "")
    converter = resolve(CONVERTERS, card.converter, "converter")()
    with replacing(target) as temporary:
        converter.convert(fetched, temporary)
        made = sha256(temporary)
    with replacing(digest) as temporary:
        temporary.write_text(made, encoding="ascii")
    return target
