"""What can go wrong on the fleet's side."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import AlmenaError

ADVICE = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room on the disk",
    errno.EROFS: "mount it for writing, or name another place",
    errno.EACCES: "run as its owner, or name another place",
    errno.EPERM: "run as its owner, or name another place",
}


class FleetError(AlmenaError):
    """Files of the fleet are missing or wrong, or its broker does not do what it should. The message says what to do."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a FleetError that names the file, or the folder in which there is one that could not be written."""
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "name another place")
        raise FleetError(f"{path} cannot be written ({error.strerror or error}): {advice}") from error


def make_folder(path: Path) -> None:
    """Where there is none. Raises FleetError."""
    with writing(path):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "it is a file")
        path.mkdir(parents=True, exist_ok=True, mode=0o700)


def make_place(path: Path) -> None:
    """The folder of a file, before somebody types a passphrase for nothing. Raises FleetError where no file can be."""
    make_folder(path.parent)
    with writing(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


class RefusedError(AlmenaError):
    """A device does not get what it asks for. `reason` is for the operator; the message, which says less, for who asked."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooOftenError(RefusedError):
    """A device gets no further certificate for so many seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("too many certificates for this device", "too many certificates for this name")
        self.wait_s = wait_s
