"""Files that are either whole and as expected, or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.errors import WrongHashError

BLOCK = 1 << 20


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; of a folder: of its files' names and hashes, in the order of the names."""
    digest = hashlib.sha256()
    if path.is_dir():
        for part in sorted(found for found in path.rglob("*") if found.is_file()):
            digest.update(f"{part.relative_to(path).as_posix()}\0{sha256(part)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`, for a file or a new folder; when the block ends well, it is synchronised and renamed to `target`,
    else removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{time.monotonic_ns()}.part")
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            _sync(path)
        temporary.replace(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_hash(path: Path, expected: str, found: str | None = None, name: str = "") -> None:
    """Raise WrongHashError and move the file into `quarantine/` beside it, unless its hash is the expected one."""
    found = found or sha256(path)
    if found == expected:
        return
    name = name or path.name
    prison = path.parent / "quarantine"
    prison.mkdir(exist_ok=True)
    place = prison / f"{name}.{found[:12]}"
    path.replace(place)
    raise WrongHashError(
        f"{name}: SHA-256 is {found}, expected {expected}. The file was damaged or replaced; it was moved to {place} and will not be"
        f" loaded. Fetch it again with `almena models fetch`; if the hash is still wrong, do not use the source."
    )
