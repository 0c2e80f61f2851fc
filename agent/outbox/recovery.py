"""What happens when the database is damaged, gone, or older than the mirror says: save what can be read, declare the rest.

A damaged database lies in `<name>.db.unsaved/` until all that is needed of it is in the new one; a new database beside such a folder is
unfinished, and made again. Then the folder becomes `<name>.db.corrupt/`, evidence that is kept for a while.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from agent.outbox import losses, ranges, schema
from agent.outbox.guard import FOLDER_MODE, sync_folder
from agent.outbox.ledger import Ledger, load_states
from agent.outbox.mirror import Mark
from agent.outbox.rows import PENDING, LaneState
from agent.transaction import transaction

logger = logging.getLogger(__name__)

_TOGETHER = 64
_COPIED = ("boots", "spools", "keys", "losses", "alarms", "erasures", "doubts", "open_tracks")
_LANE, _SEQ, _STATE, _SIZE = 1, 3, 4, 12
"""Columns of a row."""


def under_way(path: Path) -> bool:
    """Whether a damaged database has been set aside and not yet been saved."""
    return _unsaved(path).exists()


def set_aside(path: Path) -> None:
    """Move a damaged database away with its log, or finish doing so; an unfinished new one is dropped."""
    unsaved = _unsaved(path)
    unsaved.mkdir(exist_ok=True)
    unsaved.chmod(FOLDER_MODE)
    if not (unsaved / path.name).exists():
        for suffix in ("-wal", ""):
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").replace(unsaved / f"{path.name}{suffix}")
    for suffix in ("-wal", "-shm", ""):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    sync_folder(path.parent)


def keep_aside(path: Path) -> None:
    """What was set aside is saved; an earlier one makes way."""
    forget_aside(path)
    _unsaved(path).rename(_evidence(path))
    sync_folder(path.parent)


def forget_aside(path: Path, before: float = float("inf")) -> None:
    """Delete what was set aside before that Unix time."""
    with suppress(FileNotFoundError):
        if _evidence(path).stat().st_mtime < before:
            shutil.rmtree(_evidence(path))


def salvage(path: Path, connection: sqlite3.Connection, marks: Mapping[str, Mark]) -> None:
    """Copy what is readable and needed: books, keys, and the rows that are pending or numbered above the floor of their lane.

    In small commits, which take little space beside the copy. Raises sqlite3.Error if the new database cannot be written.
    """
    with closing(_opened(_unsaved(path) / path.name)) as old:
        lanes = _fetched(old, "SELECT * FROM lanes") or []
        _insert_all(connection, "lanes", lanes)
        for table in _COPIED:
            for group in _readable(old, table):
                _insert_all(connection, table, group)
        floors = {lane: mark.floor for lane, mark in marks.items()}
        floors |= {lane: max(state.floor, floors.get(lane, 0)) for lane, state in load_states(connection).items()}
        for group in _readable(old, "rows"):
            _insert_all(connection, "rows", [row for row in group if row[_STATE] == PENDING or row[_SEQ] > floors.get(row[_LANE], 0)])


def salvage_history(path: Path, connection: sqlite3.Connection) -> None:
    """Copy the rows that were settled long ago, if there is ample room. Nothing is lost without them."""
    aside = _evidence(path) / path.name
    if not aside.exists() or shutil.disk_usage(aside).free < 2 * os.path.getsize(aside):
        logger.warning("%s: there is no room to copy the local history from %s", path, aside)
        return
    try:
        with closing(_opened(aside)) as old:
            for group in _readable(old, "rows"):
                done = [row for row in group if row[_STATE] != PENDING]
                _insert_all(connection, "rows", done, then="UPDATE lanes SET history_bytes = history_bytes + ? WHERE lane = ?")
    except (sqlite3.Error, OSError) as error:
        logger.error("%s: the local history could not be copied from %s: %s", path, aside, error)


def _unsaved(path: Path) -> Path:
    return path.with_name(f"{path.name}.unsaved")


def _evidence(path: Path) -> Path:
    return path.with_name(f"{path.name}.corrupt")


def _opened(path: Path) -> sqlite3.Connection:
    """For reading. Raises OSError if there is no room for that: then everything would seem unreadable."""
    schema.need_room(path)
    return sqlite3.connect(path, timeout=schema.BUSY_S, isolation_level=None)


def _insert_all(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]], then: str = "") -> None:
    """In one commit; `then` is done with the size and lane of each row that went in."""
    with transaction(connection):
        for row in rows:
            if _insert(connection, table, row) and then:
                connection.execute(then, (row[_SIZE], row[_LANE]))


def _insert(connection: sqlite3.Connection, table: str, row: tuple[Any, ...]) -> int:
    """1 if the row fits the new table. Raises sqlite3.Error if it is not the row's fault."""
    try:
        return connection.execute(f"INSERT OR IGNORE INTO {table} VALUES({','.join('?' * len(row))})", row).rowcount
    except sqlite3.Error as error:
        if schema.is_storage(error) or not connection.in_transaction:
            raise
        return 0


def _fetched(old: sqlite3.Connection, query: str, values: tuple[int, ...] = ()) -> list[tuple[Any, ...]] | None:
    """None if it cannot be read. Raises sqlite3.Error if it only cannot be read now."""
    try:
        return old.execute(query, values).fetchall()
    except sqlite3.Error as error:
        if schema.is_full(error) or "locked" in str(error):
            raise
        return None


def _readable(old: sqlite3.Connection, table: str) -> Iterator[list[tuple[Any, ...]]]:
    """Rows by their number, in small groups, one by one where a group cannot be read."""
    ends = [_fetched(old, f"SELECT n FROM {table} NOT INDEXED ORDER BY n {order} LIMIT 1") for order in ("", "DESC")]
    known = [end[0][0] for end in ends if end]
    if not known:
        return
    first, last = (1, max(known) + _guess(old)) if None in ends else (min(known), max(known))
    query = f"SELECT * FROM {table} NOT INDEXED WHERE n BETWEEN ? AND ?"
    for start in range(first, last + 1, _TOGETHER):
        end = min(start + _TOGETHER - 1, last)
        group = _fetched(old, query, (start, end))
        if group is None:
            group = [row for number in range(start, end + 1) for row in _fetched(old, query, (number, number)) or ()]
        yield group


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
    spools = _spools(connection, state, mark)
    pending = [seq for seq, row_state in known if row_state == PENDING]
    produced = max(mark.produced, state.produced)
    settled = max(mark.settled, state.settled)
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
        for spool, first, last in spools:
            lost = ranges.within(gaps, first, last)
            for start in range(0, len(lost), losses.MAX_RANGES):
                ledger.lose(state, spool, reason, lost[start : start + losses.MAX_RANGES])
    produced = max(produced, len(pending))
    state.lost = min(state.lost, produced - len(pending))
    state.settled = produced - state.lost - len(pending)
    state.produced = produced
    state.floor = min(pending) - 1 if pending else state.seq
    for name, condition in (("pending_bytes", "state = 0"), ("history_bytes", "state > 0")):
        total = connection.execute(f"SELECT TOTAL(size) FROM rows WHERE lane=? AND {condition}", (state.lane,)).fetchone()[0]
        setattr(state, name, int(total))
    ledger.start_spool(state.lane)
    return missing


def _spools(connection: sqlite3.Connection, state: LaneState, mark: Mark) -> list[tuple[str, int, int]]:
    """The lane's spools with the first and last number that each can have given; the mirror may know of a later one than the database."""
    query = "SELECT spool, first FROM spools WHERE lane=? ORDER BY first, n"
    starts: list[tuple[str, int]] = connection.execute(query, (state.lane,)).fetchall()
    if mark.spool and mark.spool not in {spool for spool, _ in starts}:
        starts.append((mark.spool, state.seq + 1))
    firsts = [1, *(first for _, first in starts[1:]), schema.LARGEST + 1]
    return [(spool, firsts[index], firsts[index + 1] - 1) for index, (spool, _) in enumerate(starts)]
