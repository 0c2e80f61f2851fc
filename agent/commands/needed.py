"""What a command cannot do without, looked for before it fetches or writes anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from agent.errors import AlmenaError, UsageError


def need(modules: Sequence[str], extras: str) -> None:
    """Raises AlmenaError where a module is not installed; `extras`, comma-separated, bring them all."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise AlmenaError(f"not there: {', '.join(missing)}: pip install 'almena[{extras}]'")


def can_hold(path: Path | None) -> None:
    """Raises UsageError where a result could not be written to `path` in the end."""
    if path and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        reason = "it is a folder" if path.is_dir() else f"there is no folder {path.parent} that you may write to"
        raise UsageError(f"{path} cannot be written: {reason}")


def can_draw(path: Path | None) -> None:
    """Raises UsageError, AlmenaError where no picture could be drawn into `path` in the end."""
    from calibration.plot import SUFFIXES

    if path and path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: give a file that ends in {' or '.join(SUFFIXES)}")
    can_hold(path)
    if path:
        need(("matplotlib",), "plot")
