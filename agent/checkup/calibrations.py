"""Whether the calibrated models that are kept are whole."""

from __future__ import annotations

from pathlib import Path

from agent.checkup import Check
from agent.settings import Settings
from engines.calibrated import beside, require_sound
from engines.errors import ModelFileError


def calibrations(settings: Settings) -> list[Check]:
    """One for each that is there. Without a damaged one other precisions serve, unless the settings name int8."""
    records = sorted((settings.engines_dir / "calibrated").glob("*.json"))
    return [_calibration(record.with_suffix(".onnx"), settings.engines.precision == "int8") for record in records]


def _calibration(path: Path, named: bool) -> Check:
    label = f"calibration {path.stem}"
    try:
        calibration = beside(path)
        if calibration is not None:
            require_sound(path, calibration)
    except ModelFileError as error:
        text, _, advice = str(error).partition(": ")
        return Check(label, "fail" if named else "warn", text, f"{advice[0].upper()}{advice[1:]}.")
    return Check(label, "ok", f"{path}, as its record says")
