"""Stored events as others want them: their numbers, and rows of a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timezone
from typing import Any

from agent.clock import date_of

FIELDS = (
    "type", "track", "decision", "name", "identity", "cluster", "distance", "threshold", "score", "started_at", "ended_at", "reason",
)  # fmt: skip
"""Of `data`; what an event does not have stays empty."""
COLUMNS = ("time", "stream", "kind", "id", "model", *FIELDS, "data")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def number(event_id: str) -> int:
    """The number within its lane, of `<device>/<spool>/<seq>`. Raises ValueError for an id of another form."""
    return int(event_id.rpartition("/")[2])


def row(envelope: Mapping[str, Any]) -> list[Any]:
    """The values of COLUMNS. `time` is ISO 8601 in UTC, `data` all of it as JSON."""
    moment = date_of(envelope["captured_at"], timezone.utc).isoformat(timespec="milliseconds")
    head = [moment, *(envelope[name] for name in ("stream", "kind", "id", "model"))]
    data = envelope["data"]
    values = [*head, *(data.get(name) for name in FIELDS), json.dumps(data, ensure_ascii=False)]
    return [cell(value) for value in values]


def cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe in front (OWASP, "CSV Injection")."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
