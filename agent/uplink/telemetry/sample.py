"""What every collector gives: values that were read, and the reason for each that could not be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Reading:
    """`values` by name; `missing` names what could not be read, and why. Nothing is invented."""

    values: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def number(self, name: str, path: Path, divisor: float) -> None:
        """Take the integer in a file of sysfs, divided into a base unit, as `name`."""
        try:
            self.values[name] = int(path.read_text()) / divisor
        except (OSError, ValueError) as error:
            self.missing[name] = reason(error)


def reason(error: Exception) -> str:
    """An error in a few words."""
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
