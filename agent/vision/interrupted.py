"""Tracks that were open when the vision process died get their end at the restart."""

from __future__ import annotations

import time
from typing import Any

from agent.datatypes import Event
from agent.outbox import Outbox
from agent.vision.sightings import Seen


def end_interrupted(outbox: Outbox, seen: Seen) -> int:
    """Append an `end` with reason `interrupted` for each track that has none. How many there were.

    Nobody knows when such a track ended: `ended_at` is when it was last `seen` for sure, at the latest in its last event.
    """

    def last_seen(envelope: dict[str, Any]) -> float:
        noted = seen.get(envelope["stream"], {}).get(str(envelope["data"]["track"]), 0.0)
        return max(float(envelope["captured_at"]), noted)

    events = [
        Event(
            envelope["stream"],
            envelope["kind"],
            {**envelope["data"], "type": "end", "ended_at": last_seen(envelope), "reason": "interrupted"},
            time.time(),
            time.monotonic_ns(),
            envelope["model"],
            key=f"interrupted:{envelope['stream']}:{envelope['kind']}:{envelope['data']['track']}",
        )
        for envelope in outbox.open_tracks()
    ]
    outbox.append("event", events)
    return len(events)
