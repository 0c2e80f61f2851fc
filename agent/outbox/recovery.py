"""What happens when the database is damaged, gone, or older than the mirror says: save what can be read, declare the rest."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.outbox import losses, ranges
from agent.outbox.ledger import Ledger, load_states
from agent.outbox.mirror import Mark
from agent.outbox.rows import PENDING, LaneState, new_spool

_TOGETHER = 64
_COPIED = ("boots", "keys", "losses", "alarms", "rows")


def set_aside(path: Path) -> Path:
    """Rename a damaged database with its log; an earlier one makes way."""
    aside = path.with_name(path.name + ".corrupt")
    for suffix in ("", "-wal"):
        Path(f"{aside}{suffix}").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            Path(f"{path}{suffix}").replace(f"{aside}{suffix}")
    for left in (f"{aside}-shm", f"{path}-shm"):
        Path(left).unlink(missing_ok=True)
    return aside


def forget_aside(path: Path) -> None:
    """Delete what was set aside."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}.corrupt{suffix}").unlink(missing_ok=True)


def salvage(aside: Path, connection: sqlite3.Connection) -> int:
    """Copy every readable row (and key, loss, boot, alarm) of `aside` into the new database; returns how many rows of lanes."""
    try:
        old = sqlite3.connect(aside, isolation_level=None)
    except sqlite3.Error:
        return 0
    saved = 0
    try:
        with suppress(sqlite3.Error):
            for row in old.execute("SELECT * FROM lanes").fetchall():
                _insert(connection, "lanes", row)
        for table in _COPIED:
            saved = sum(_insert(connection, table, row) for row in _readable(old, table))
    finally:
        old.close()
    return saved


def _insert(connection: sqlite3.Connection, table: str, row: tuple[Any, ...]) -> int:
    """1 if the row fits the new table."""
    try:
        return connection.execute(f"INSERT OR IGNORE INTO {table} VALUES({','.join('?' * len(row))})", row).rowcount
    except sqlite3.Error:
        return 0


def _readable(old: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """Rows by their number, in small groups, one by one where a group cannot be read."""
    bounds = []
    for order in ("", "DESC"):
        with suppress(sqlite3.Error):
            bounds.append(old.execute(f"SELECT n FROM {table} NOT INDEXED ORDER BY n {order} LIMIT 1").fetchone())
    known = [bound[0] for bound in bounds if bound]
    if not known:
        return
    first, last = (min(known), max(known)) if len(bounds) == 2 else (1, max(known) + _guess(old))
    query = f"SELECT * FROM {table} NOT INDEXED WHERE n BETWEEN ? AND ?"
    for start in range(first, last + 1, _TOGETHER):
        end = min(start + _TOGETHER - 1, last)
        try:
            yield from old.execute(query, (start, end)).fetchall()
        except sqlite3.Error:
            for number in range(start, end + 1):
                with suppress(sqlite3.Error):
                    yield from old.execute(query, (number, number)).fetchall()


def _guess(old: sqlite3.Connection) -> int:
    """An upper bound of the number of rows, for a table one end of which cannot be read."""
    with suppress(sqlite3.Error):
        return sum(state.produced for state in load_states(old).values())
    return 100_000


def behind(states: Mapping[str, LaneState], marks: Mapping[str, Mark]) -> bool:
    """Whether the mirror knows of things that the database has forgotten."""
    for lane, state in states.items():
        mark = marks.get(lane)
        if mark and (mark.seq > state.seq or mark.produced > state.produced or mark.lost > state.lost):
            return True
    return False


def reconcile(ledger: Ledger, connection: sqlite3.Connection, marks: Mapping[str, Mark], reason: str) -> int:
    """Bring books, rows and mirror into agreement: what the mirror counted and no row holds is declared; returns how much."""
    for lane, mark in marks.items():
        # At the mirror's floor and below nothing is pending: what the old file still calls so was settled or declared later.
        connection.execute("UPDATE rows SET state=1 WHERE lane=? AND state=0 AND seq<=?", (lane, mark.floor))
    unrecorded = {lane: _unrecorded(connection, state, marks.get(lane, Mark(""))) for lane, state in ledger.states.items()}
    declared = 0
    for lane, state in ledger.states.items():
        mark = marks.get(lane, Mark(""))
        if unrecorded[lane] > 0 and lane != "loss":
            losses.add(connection, lane, mark.spool or state.spool, "loss record lost", unrecorded[lane], [], ledger.wall)
        declared += _reconcile_lane(ledger, connection, state, mark, reason)
    return declared


def _unrecorded(connection: sqlite3.Connection, state: LaneState, mark: Mark) -> int:
    """Declared losses of the lane whose record was neither settled nor saved."""
    gathered = connection.execute("SELECT TOTAL(count) FROM losses WHERE lane=?", (state.lane,)).fetchone()[0]
    records = connection.execute("SELECT payload FROM rows WHERE lane='loss' AND state=0").fetchall()
    data = [json.loads(payload)["data"] for (payload,) in records]
    frozen = sum(record["count"] for record in data if record["lane"] == state.lane)
    return max(mark.lost, state.lost) - max(mark.acknowledged, state.acknowledged) - int(gathered) - int(frozen)


def _reconcile_lane(ledger: Ledger, connection: sqlite3.Connection, state: LaneState, mark: Mark, reason: str) -> int:
    """Start a new spool. A number above the mirror's floor that no row has is declared, though its row may have been settled out of
    order: the hub counts a number that it has stored as stored."""
    known = connection.execute("SELECT seq, state FROM rows WHERE lane=?", (state.lane,)).fetchall()
    pending = [seq for seq, row_state in known if row_state == PENDING]
    produced = max(mark.produced, state.produced)
    settled = max(mark.settled, state.settled)
    old_spool = mark.spool or state.spool
    state.spool = new_spool()
    state.seq = max(state.seq, mark.seq, *(seq for seq, _ in known), 0)
    state.lost = max(mark.lost, state.lost)
    state.acknowledged = max(mark.acknowledged, state.acknowledged)
    state.booked = max(mark.booked, state.booked)
    gaps = ranges.without(max(mark.floor, state.floor) + 1, state.seq, (seq for seq, _ in known))
    missing = ranges.size(gaps)
    if state.lane == "loss":
        missing = max(0, produced - settled - state.lost - len(pending))
        state.lost += missing  # what they told is declared anew, see _unrecorded
    else:
        for start in range(0, len(gaps), losses.MAX_RANGES):
            ledger.lose(state, old_spool, reason, gaps[start : start + losses.MAX_RANGES])
    produced = max(produced, len(pending))
    state.lost = min(state.lost, produced - len(pending))
    state.settled = produced - state.lost - len(pending)
    state.produced = produced
    state.floor = min(pending) - 1 if pending else state.seq
    for name, condition in (("pending_bytes", "state = 0"), ("history_bytes", "state > 0")):
        total = connection.execute(f"SELECT TOTAL(size) FROM rows WHERE lane=? AND {condition}", (state.lane,)).fetchone()[0]
        setattr(state, name, int(total))
    return missing
