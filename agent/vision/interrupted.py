"""Tracks that were open when the vision process died get their end at the restart."""

from __future__ import annotations

import time
from typing import Any

from agent.datatypes import Event
from agent.outbox import Outbox

LOOK_BACK = 20_000


def end_interrupted(outbox: Outbox) -> int:
    """Append an `end` with reason `interrupted` for each face track of the last 20,000 face events that has none. How many there were."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for envelope in outbox.history(kind="face", limit=LOOK_BACK, newest_first=True):
        last.setdefault((envelope["stream"], envelope["data"]["track"]), envelope)
    events = [
        Event(
            stream,
            "face",
            {**envelope["data"], "type": "end", "ended_at": envelope["captured_at"], "reason": "interrupted"},
            time.time(),
            time.monotonic_ns(),
            envelope["model"],
            key=f"interrupted:{track}",
        )
        for (stream, track), envelope in last.items()
        if envelope["data"]["type"] != "end"
    ]
    if events:
        outbox.append("event", events)
    return len(events)
