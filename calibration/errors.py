"""Errors of a calibration that a user may meet. Each message says what to do."""

from __future__ import annotations

from engines.errors import EngineError


class CalibrationError(EngineError):
    """A model cannot be calibrated; the message names the model and the tensor or node."""


class SamplesError(CalibrationError):
    """The pictures to calibrate with are none, too few, unreadable, or of another kind than the model is for."""


class LabelsError(CalibrationError):
    """Labels, or a picture that they name, cannot be used; the message names the file."""
