"""Declared loss: gathered per spool and reason, then frozen into a row of the loss lane when there is none of the same on its way."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from agent.outbox import ranges
from agent.outbox.rows import PENDING

MAX_RANGES = 1000
MAX_REASONS = 50
MAX_REASON = 80


def add(connection: sqlite3.Connection, lane: str, spool: str, reason: str, count: int, lost: Sequence[tuple[int, int]], at: float) -> None:
    """Gather `count` events of `spool`; `lost` are the numbers of those that had one."""
    reason = _bounded(connection, spool, reason)
    found = connection.execute(
        "SELECT n, ranges FROM losses WHERE lane=? AND spool=? AND reason=? ORDER BY n DESC LIMIT 1", (lane, spool, reason)
    ).fetchone()
    if found:
        joined = ranges.merged([*json.loads(found[1]), *lost])
        if len(joined) <= MAX_RANGES:
            connection.execute("UPDATE losses SET count=count+?, ranges=?, until=? WHERE n=?", (count, json.dumps(joined), at, found[0]))
            return
    connection.execute(
        "INSERT INTO losses(lane, spool, reason, count, ranges, since, until) VALUES(?,?,?,?,?,?,?)",
        (lane, spool, reason, count, json.dumps(ranges.merged(lost)), at, at),
    )


def take_free(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Remove and return what can be frozen now, as data of loss events."""
    free, taken = [], set()
    for n, lane, spool, reason, count, lost, since, until in connection.execute(
        "SELECT n, lane, spool, reason, count, ranges, since, until FROM losses ORDER BY n"
    ).fetchall():
        data = {"lane": lane, "spool": spool, "reason": reason, "count": count, "ranges": json.loads(lost), "since": since, "until": until}
        if label(data) in taken or _under_way(connection, label(data)):
            continue
        taken.add(label(data))
        connection.execute("DELETE FROM losses WHERE n=?", (n,))
        free.append(data)
    return free


def gathered(connection: sqlite3.Connection) -> bool:
    """Whether anything waits to be frozen."""
    return connection.execute("SELECT 1 FROM losses LIMIT 1").fetchone() is not None


def label(data: dict[str, Any]) -> str:
    """What records are merged by; the note of a loss row."""
    return f"{data['lane']}/{data['spool']}/{data['reason']}"


def _under_way(connection: sqlite3.Connection, note: str) -> bool:
    query = "SELECT 1 FROM rows WHERE lane='loss' AND state=? AND note=? LIMIT 1"
    return connection.execute(query, (PENDING, note)).fetchone() is not None


def _bounded(connection: sqlite3.Connection, spool: str, reason: str) -> str:
    """Reasons come from the hub too: short, and not too many of them."""
    reason = reason[:MAX_REASON]
    known = [row[0] for row in connection.execute("SELECT DISTINCT reason FROM losses WHERE spool=?", (spool,))]
    return reason if reason in known or len(known) < MAX_REASONS else reason.partition(":")[0]
