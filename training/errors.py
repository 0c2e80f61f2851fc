"""Errors of a training that a user may meet. Each message says what to do."""

from __future__ import annotations

from engines.errors import EngineError


class TrainingError(EngineError):
    """A network cannot be trained or exported."""


class DataError(TrainingError):
    """Labelled pictures cannot be used; the message names the folder or the file."""
