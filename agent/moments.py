"""Moments as people type them."""

from __future__ import annotations

import re
from datetime import datetime

import typer

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def moment_of(text: str | None, now: float) -> float | None:
    """Unix seconds of `2h` (ago) or of an ISO 8601 date or time."""
    if text is None:
        return None
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if ago:
        return now - float(ago[1]) * UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text.strip().replace("Z", "+00:00")).timestamp()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither like 30m, 2h, 7d nor a date and time like 2026-05-01T08:00") from None
