"""Tracks that were open when the vision process died get their end at the restart."""

from __future__ import annotations

import time
from typing import Any

from agent.datatypes import Event
from agent.outbox import Outbox

LOOK_BACK = 20_000


def end_interrupted(outbox: Outbox) -> int:
    """Append an `end` with reason `interrupted` for each face track within the last 20,000 events that has none. How many there were.

    Goes by the events' numbers, because the clock may have been stepped between them.
    """
    newest: int = outbox.stats()["event"]["seq"]
    envelopes = outbox.history(kind="face", after_seq=max(0, newest - LOOK_BACK), limit=LOOK_BACK)
    last: dict[tuple[str, str], dict[str, Any]] = {(one["stream"], one["data"]["track"]): one for one in envelopes}
    events = [
        Event(
            stream,
            "face",
            {**envelope["data"], "type": "end", "ended_at": envelope["captured_at"], "reason": "interrupted"},
            time.time(),
            time.monotonic_ns(),
            envelope["model"],
            key=f"interrupted:{stream}:{track}",
        )
        for (stream, track), envelope in last.items()
        if envelope["data"]["type"] != "end"
    ]
    if events:
        outbox.append("event", events)
    return len(events)
