"""Tracks that were open when the vision process died get their end at the restart."""

from __future__ import annotations

import time

from agent.datatypes import Event
from agent.outbox import Outbox


def end_interrupted(outbox: Outbox) -> int:
    """Append an `end` with reason `interrupted` for each track that has none. How many there were.

    Nobody knows when such a track ended: `ended_at` is the time of its last event, when it was surely there.
    """
    events = [
        Event(
            envelope["stream"],
            envelope["kind"],
            {**envelope["data"], "type": "end", "ended_at": envelope["captured_at"], "reason": "interrupted"},
            time.time(),
            time.monotonic_ns(),
            envelope["model"],
            key=f"interrupted:{envelope['stream']}:{envelope['kind']}:{envelope['data']['track']}",
        )
        for envelope in outbox.open_tracks()
    ]
    outbox.append("event", events)
    return len(events)
