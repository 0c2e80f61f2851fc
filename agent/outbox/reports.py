"""What is read from a store without changing it."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from agent.clock import Clock
from agent.outbox.ledger import load_states
from agent.outbox.rows import DEAD, PENDING

ALARM_S = 86400.0
_SCAN_AT_ONCE = 500


def books(connection: sqlite3.Connection, clock: Clock) -> dict[str, dict[str, Any]]:
    """See Outbox.stats; `booked` is for the store alone."""
    found = {}
    newest = connection.execute("SELECT raised_at, text FROM alarms ORDER BY n DESC LIMIT 1").fetchone()
    alarm = newest[1] if newest and clock.wall() - newest[0] < ALARM_S else ""
    for lane, state in load_states(connection).items():
        pending = connection.execute("SELECT COUNT(*) FROM rows WHERE lane=? AND state=0", (lane,)).fetchone()[0]
        dead = connection.execute("SELECT COUNT(*) FROM rows WHERE lane=? AND state=?", (lane, DEAD)).fetchone()[0]
        wanted = ("spool", "seq", "produced", "settled", "lost", "booked", "history_bytes")
        found[lane] = {name: getattr(state, name) for name in wanted}
        found[lane] |= {"pending": pending, "dead": dead, "bytes": state.pending_bytes, "alarm": alarm}
        found[lane]["oldest_age_s"] = _oldest_age(connection, clock, lane) if pending else None
    return found


def knows_boot(connection: sqlite3.Connection, clock: Clock) -> bool:
    """Whether the store was opened in this boot before."""
    return connection.execute("SELECT 1 FROM boots WHERE boot_id=?", (clock.boot_id,)).fetchone() is not None


def holding(connection: sqlite3.Connection, identity: str, after: int) -> list[int]:
    """Some of the rows above `after` that hold `identity`, by their number in the table. Empty at the end."""
    needle = json.dumps(identity, ensure_ascii=False).encode()
    query = "SELECT n FROM rows WHERE n > ? AND instr(payload, ?) ORDER BY n LIMIT ?"
    return [n for (n,) in connection.execute(query, (after, needle, _SCAN_AT_ONCE))]


def _oldest_age(connection: sqlite3.Connection, clock: Clock, lane: str) -> float:
    stored_at, mono_s, boot_id = connection.execute(
        "SELECT stored_at, mono_s, boot_id FROM rows LEFT JOIN boots ON boots.n = rows.boot WHERE lane=? AND state=? ORDER BY seq LIMIT 1",
        (lane, PENDING),
    ).fetchone()
    age = clock.mono_ns() / 1e9 - mono_s if boot_id == clock.boot_id else clock.wall() - stored_at
    return float(max(0.0, age))
