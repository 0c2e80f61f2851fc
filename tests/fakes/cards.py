"""Cards of models of one's own, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from engines.card import Format
from engines.fetch import several
from engines.files import sha256, sha256_of

LABELS = ("a", "b", "c", "d")


def write_card(path: Path, model: Path, model_format: Format, **changes: Any) -> Path:
    """A classifier's card at `path` for `model`; that of tests/fakes/tensorflow_models.py's network unless `changes` say otherwise."""
    parts = several(model)
    content: dict[str, Any] = {
        "name": path.stem, "version": "1", "title": "a small classifier", "task": "classification", "licence": "none",
        "training_data": "none", "source": {"kind": "local", "path": str(model)},
        "sha256": sha256_of(parts) if parts is not None else sha256(model), "format": model_format,
        "input": {"layout": "NHWC", "colour": "RGB", "sizes": [[32, 24]], "scale": [255.0], "resize": "stretch"},
        "decoder": {"name": "classification", "params": {"output": "answer"}}, "labels": list(LABELS),
        "thresholds": {"chosen_on": "nothing"}, "allowance": {"probability": 0.05, "agreement": 0.9},
    }  # fmt: skip
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path
