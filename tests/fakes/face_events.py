"""Events of faces, as the task gives them."""

from __future__ import annotations

import time
from typing import Any

from agent.datatypes import Event


def face_data(kind: str = "new", name: str | None = None, at: float | None = None, **data: Any) -> dict[str, Any]:
    """The data of an event of type `kind`: new, update or end."""
    return {
        "type": kind, "track": "t1", "box": [10, 20, 90, 120], "score": 0.97, "started_at": time.time() if at is None else at,
        "ended_at": None, "identity": "p-1" if name else None, "name": name, "decision": "known" if name else "unknown", "distance": 0.31,
        "threshold": 0.5, "second_best": None, "cluster": None if name else "u-3f9a21", "frames": 12,
        "reason": "left" if kind == "end" else None, **data,
    }  # fmt: skip


def face(kind: str = "new", name: str | None = None, stream: str = "door", at: float | None = None, model: str = "", **data: Any) -> Event:
    """Such an event, seen at `at`, or now."""
    now = time.time() if at is None else at
    return Event(stream, "face", face_data(kind, name, now, **data), now, time.monotonic_ns(), model)


def of_track(track: str, kind: str, at: float, stream: str = "cam") -> Event:
    """One of several events of a stay."""
    return face(kind, stream=stream, at=at, model="model", track=track)
