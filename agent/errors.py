"""Errors that a user may meet. Each message says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class AlmenaError(Exception):
    """The base of all errors that the agent raises on purpose. `reasons`, for scripts: each thing that is wrong."""

    reasons: Sequence[Any] = ()


class UsageError(AlmenaError):
    """What was asked for cannot be; the command exits with 2."""


class SettingsError(UsageError):
    """The settings file is wrong. The message has a line for each thing, with file, path and line."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.reasons = message.splitlines()


class UnreadableError(AlmenaError, OSError):
    """A file that the settings name cannot be read. The message names it and says what to do, and holds nothing of what is in it."""


class UnknownError(AlmenaError):
    """What was asked for by its name or id (a stream, an identity, a cluster) is not there."""


class SourceError(AlmenaError):
    """A source cannot be opened or read.

    `code` is stable: STREAM_AUTH_FAILED, STREAM_TLS_CERTIFICATE, STREAM_TIMEOUT, STREAM_NOT_FOUND,
    STREAM_CODEC_UNSUPPORTED, STREAM_FROZEN, STREAM_COVERED; besides, STREAM_LOST (the peer or the device went away),
    STREAM_DAMAGED (a recording that breaks off), STREAM_LIBRARY_MISSING and STREAM_FAILED (a fault of the source's own code).
    `fatal` says that another try cannot help. The message never holds credentials.
    """

    def __init__(self, code: str, message: str, *, fatal: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.fatal = fatal


class ItemError(AlmenaError):
    """One item of a finite source is bad; the rest of the stream goes on."""

    def __init__(self, item: str, reason: str) -> None:
        super().__init__(f"{item}: {reason}")
        self.item = item
        self.reason = reason


class NotNowError(AlmenaError):
    """A task cannot finish an item of a finite source now, through no fault of the item: the disk is full. It is tried again."""


def as_json(error: Exception) -> dict[str, Any]:
    """What a script gets to see of an error."""
    return {"error": str(error), "reasons": list(getattr(error, "reasons", ()))}
