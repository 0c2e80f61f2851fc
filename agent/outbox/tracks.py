"""Tracks that are open: the last event of each is kept here until its end comes, whatever becomes of its row."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from agent.datatypes import Event
from agent.wire import blanked


def follow(connection: sqlite3.Connection, event: Event, payload: bytes) -> None:
    """An event that names a track, with its envelope, was stored: the track is open from now on, or has ended."""
    track = event.data.get("track")
    if track is None:
        return
    names = event.stream, event.kind, str(track)
    if event.data.get("type") == "end":
        connection.execute("DELETE FROM open_tracks WHERE stream=? AND kind=? AND track=?", names)
    else:
        connection.execute("INSERT OR REPLACE INTO open_tracks(stream, kind, track, payload) VALUES(?,?,?,?)", (*names, payload))


def open_ones(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """The envelope of the last event of every open track, in the order in which they were stored."""
    return [json.loads(payload) for (payload,) in connection.execute("SELECT payload FROM open_tracks ORDER BY n")]


def blank(connection: sqlite3.Connection, identity: str) -> None:
    """Take an identity and its name out of them."""
    for n, payload in connection.execute("SELECT n, payload FROM open_tracks").fetchall():
        without = blanked(payload, identity)
        if without is not None:
            connection.execute("UPDATE open_tracks SET payload=? WHERE n=?", (without, n))
