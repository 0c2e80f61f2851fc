"""Files that are either whole and as expected, or not there."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from engines.errors import WrongHashError

BLOCK = 1 << 20
_PART = re.compile(r"\..*\.(\d+)\.(\d+)\.part")
"""The name of a temporary file or folder: the process that writes it, and when in nanoseconds of this boot."""


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; of a folder: of its files' names and hashes, in the order of the names."""
    if path.is_dir():
        return sha256_of({part.relative_to(path).as_posix(): part for part in path.rglob("*") if part.is_file()})
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sha256_of(parts: Mapping[str, Path]) -> str:
    """The SHA-256 of a folder that holds files of these names."""
    lines = (f"{name}\0{sha256(part)}\n" for name, part in sorted(parts.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def text_of(path: Path) -> str:
    """What a small file says, without what is blank around it; "" where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


class HeldError(Exception):
    """Another process holds a lock; the message is its number."""


def locked(path: Path, mode: int = 0o600) -> io.FileIO:
    """A lock file that nobody else gets until this is closed: the kernel lets go when the process dies. It says which process has it.

    Raises OSError, and HeldError if it is held.
    """
    lock = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode), "r+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.write(f"{os.getpid():<20}".encode())  # always as long, so that it needs no space on a full disk
    except OSError as error:
        with lock:
            if isinstance(error, BlockingIOError):
                raise HeldError(lock.read(20).decode().strip()) from None
            raise
    return lock


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(part.stat().st_size for part in [path, *path.rglob("*")] if part.is_file())


@contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`, for a file or a new folder, which is removed when the block ends.

    What processes that died left of this kind in the folder is removed too.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target.parent)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{time.monotonic_ns()}.part")
    try:
        yield temporary
    finally:
        remove(temporary)


@contextmanager
def replacing(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path as of `scratch`; when the block ends well, what is there is renamed to `target`, `durable`: to outlive a loss of
    power."""
    with scratch(target) as temporary:
        yield temporary
        for path in [*temporary.rglob("*"), temporary] if durable else []:
            _sync(path)
        if target.is_dir() or temporary.is_dir():
            with scratch(target) as old:  # a folder takes the name of nothing but an empty one
                if target.exists():
                    target.replace(old)
                temporary.replace(target)
        else:
            temporary.replace(target)
        if durable:
            _sync(target.parent)


def _sweep(directory: Path) -> None:
    for path in directory.glob(".*.part"):
        name = _PART.fullmatch(path.name)
        if name and not (_lives(int(name[1])) and int(name[2]) <= time.monotonic_ns()):
            with suppress(OSError):  # what only another user may remove is swept by a process of that user
                remove(path)


def _lives(process: int) -> bool:
    """Asked of the kernel, since /proc does not show a confined process those of other users."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


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
    remove(place)
    path.replace(place)
    raise WrongHashError(
        f"{name}: SHA-256 is {found}, expected {expected}. The file was damaged or replaced; it was moved to {place} and will not be"
        f" loaded. Fetch it again with `almena models fetch`; if the hash is still wrong, do not use the source."
    )
