"""Files of the host that are whole, or as they were before, also when the power fails. Needs Python's own library only."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, text: str | bytes, mode: int = 0o644, group: int | None = None) -> None:
    """Put `text` there, for root and the group of that number; durable when this returns. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text if isinstance(text, bytes) else text.encode())
        file.flush()
        os.fsync(file.fileno())
    if group is not None:
        os.chown(new, 0, group)
    _put(new, path)


def point(link: Path, to: Path) -> None:
    """Let the link `link` lead to `to` from one moment to the next."""
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(to)
    _put(new, link)


def remove(path: Path) -> None:
    """Remove a file, for good. Raises OSError."""
    path.unlink()
    _keep(path.parent)


def _put(new: Path, path: Path) -> None:
    """Rename `new` to `path`, for good."""
    os.replace(new, path)
    _keep(path.parent)


def _keep(path: Path) -> None:
    """What has changed in a folder outlasts a power cut from now on."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
