"""What can go wrong on the fleet's side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import AlmenaError


class FleetError(AlmenaError):
    """Files of the fleet are missing or wrong, or its broker does not do what it should. The message says what to do."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a FleetError that names the file, or the folder in which there is one that could not be written."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise FleetError(f"{path} cannot be written ({why}): make room on the disk, name another place, or run as its owner") from error


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
