"""What the hub has received, in SQLite: every row exactly once under (device, spool, seq)."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent import wire
from fleet.intervals import Intervals

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
  device TEXT NOT NULL, spool TEXT NOT NULL, seq INTEGER NOT NULL, lane TEXT NOT NULL, stream TEXT NOT NULL, kind TEXT NOT NULL,
  captured_at REAL NOT NULL, mono_ns INTEGER NOT NULL, boot_id TEXT NOT NULL, received_at REAL NOT NULL, payload BLOB NOT NULL,
  PRIMARY KEY (device, spool, seq));
CREATE TABLE IF NOT EXISTS spools (device TEXT NOT NULL, spool TEXT NOT NULL, ranges TEXT NOT NULL, PRIMARY KEY (device, spool));
CREATE TABLE IF NOT EXISTS dead_letters (
  digest TEXT PRIMARY KEY, topic TEXT NOT NULL, reason TEXT NOT NULL, first_at REAL NOT NULL, last_at REAL NOT NULL, times INTEGER NOT NULL,
  payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS devices (
  device TEXT PRIMARY KEY, state TEXT NOT NULL DEFAULT '', session TEXT NOT NULL DEFAULT '', status BLOB, status_at REAL, reported BLOB);
CREATE TABLE IF NOT EXISTS replies (
  device TEXT NOT NULL, id TEXT NOT NULL, payload BLOB NOT NULL, received_at REAL NOT NULL, PRIMARY KEY (device, id));
CREATE TABLE IF NOT EXISTS erased (device TEXT NOT NULL, identity TEXT NOT NULL, PRIMARY KEY (device, identity));
"""
KEPT_OF_DEAD_LETTER = 64 * 1024
KEPT_BYTES = 64 * 1024 * 1024
"""Of dead letters, and of replies."""
KEPT_S = 90 * 86400
KNOWN_SPOOLS = 10_000
"""Spools whose numbers stay in memory; every boot of a device starts a new one."""
_OVERHEAD = 300


class Store:
    """One connection, one thread. Nothing lasts before `commit`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA secure_delete=ON")
        self._db.executescript(_SCHEMA)
        self._known: dict[tuple[str, str], Intervals] = {}
        self._touched: set[tuple[str, str]] = set()
        self._scrub = True

    def begin(self) -> None:
        """Start a batch."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the batch durable; only then may it be acknowledged."""
        for device, spool in self._touched:
            ranges = json.dumps(list(self._known[device, spool]))
            self._db.execute("INSERT OR REPLACE INTO spools VALUES (?, ?, ?)", (device, spool, ranges))
        self._db.execute("COMMIT")
        self._touched.clear()
        if self._scrub:  # what was erased is to leave the log too; a reader may have to go first
            self._scrub = bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
        while len(self._known) > KNOWN_SPOOLS:
            del self._known[next(iter(self._known))]

    def rollback(self) -> None:
        """Forget the batch."""
        self._db.execute("ROLLBACK")
        for key in self._touched:
            del self._known[key]
        self._touched.clear()

    def add(self, lane: str, envelope: wire.Envelope[dict[str, Any]], payload: bytes, received_at: float) -> None:
        """Store a row, once however often it comes, without an identity that was erased. A loss record also closes the gaps that it
        declares.

        Raises WireError if another row is here under the same number; ValueError, OverflowError for numbers that cannot be.
        """
        device, spool, seq = envelope.device, envelope.spool, envelope.seq
        loss = wire.Loss.model_validate(envelope.data) if lane == "loss" else None
        declared = Intervals(loss.ranges) if loss else ()
        identity = envelope.data.get("identity")
        if isinstance(identity, str) and self._is_erased(device, identity):
            payload = wire.blanked(payload, identity) or payload
        said = (envelope.stream, envelope.kind, envelope.captured_at, envelope.mono_ns, envelope.boot_id)
        there = self._db.execute(
            "INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (device, spool, seq, lane, *said, received_at, payload)
        )
        if there.rowcount == 0 and self._origin(device, spool, seq) != (envelope.boot_id, envelope.mono_ns, envelope.kind):
            raise wire.WireError("another message is stored under this number; the device's outbox was rolled back")
        self._mark(device, spool, [(seq, seq)])
        if loss:
            self._mark(device, loss.spool, declared)

    def erase(self, device: str, identity: str) -> None:
        """Blank an identity and its name in everything from this device, also in what is still to come."""
        if self._db.execute("INSERT OR IGNORE INTO erased VALUES (?, ?)", (device, identity)).rowcount == 0:
            return
        needle = json.dumps(identity).encode()
        held = self._db.execute("SELECT rowid, payload FROM rows WHERE device = ? AND instr(payload, ?)", (device, needle)).fetchall()
        blank = [(payload, row) for row, old in held if (payload := wire.blanked(old, identity)) is not None]
        self._db.executemany("UPDATE rows SET payload = ? WHERE rowid = ?", blank)
        here = f"{wire.TOPICS['audit'].of(device).rpartition('/')[0]}/"
        self._db.execute(
            "UPDATE dead_letters SET payload = x'' WHERE substr(topic, 1, ?) = ? AND instr(payload, ?)", (len(here), here, needle)
        )
        self._scrub = True

    def ranges(self, device: str, spool: str) -> Intervals:
        """The numbers of a spool that are stored or declared as lost."""
        key = (device, spool)
        if key not in self._known:
            found = self._db.execute("SELECT ranges FROM spools WHERE device = ? AND spool = ?", key).fetchone()
            self._known[key] = Intervals(tuple(pair) for pair in json.loads(found[0])) if found else Intervals()
        self._known[key] = self._known.pop(key)
        return self._known[key]

    def refuse(self, topic: str, reason: str, payload: bytes, now: float) -> None:
        """Keep a message that cannot be stored, once, with the number of times that it came."""
        digest = hashlib.sha256(topic.encode() + b"\0" + payload).hexdigest()
        self._db.execute(
            "INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, 1, ?) "
            "ON CONFLICT (digest) DO UPDATE SET times = times + 1, last_at = excluded.last_at, reason = excluded.reason",
            (digest, topic, reason, now, now, payload[:KEPT_OF_DEAD_LETTER]),
        )

    def status(self, device: str, state: str, session: str, payload: bytes, now: float) -> None:
        """Keep a birth, goodbye or will; a will of another session than the current birth's changes nothing."""
        if state == "offline":
            self._db.execute(
                "UPDATE devices SET state = ?, status = ?, status_at = ? WHERE device = ? AND session = ?",
                (state, payload, now, device, session),
            )
            return
        self._db.execute(
            "INSERT INTO devices (device, state, session, status, status_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT (device) DO UPDATE "
            "SET state = excluded.state, session = excluded.session, status = excluded.status, status_at = excluded.status_at",
            (device, state, session, payload, now),
        )

    def reported(self, device: str, payload: bytes) -> None:
        """Keep the newest reported state."""
        self._db.execute(
            "INSERT INTO devices (device, reported) VALUES (?, ?) ON CONFLICT (device) DO UPDATE SET reported = excluded.reported",
            (device, payload),
        )

    def reply(self, device: str, command: str, payload: bytes, now: float) -> None:
        """Keep the first reply to a command."""
        self._db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)", (device, command, payload, now))

    def purge(self, now: float) -> None:
        """Forget the oldest dead letters and replies that are too old or too many; call it from time to time within a batch."""
        for table, at in (("dead_letters", "last_at"), ("replies", "received_at")):
            sizes = f"SELECT rowid, SUM(LENGTH(payload) + {_OVERHEAD}) OVER (ORDER BY {at} DESC, rowid) AS total FROM {table}"
            self._db.execute(
                f"DELETE FROM {table} WHERE {at} < ? OR rowid IN (SELECT rowid FROM ({sizes}) WHERE total > ?)", (now - KEPT_S, KEPT_BYTES)
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _origin(self, device: str, spool: str, seq: int) -> tuple[str, int, str]:
        """What tells a row from another under its number; its payload may have been blanked since."""
        query = "SELECT boot_id, mono_ns, kind FROM rows WHERE device = ? AND spool = ? AND seq = ?"
        boot_id, mono_ns, kind = self._db.execute(query, (device, spool, seq)).fetchone()
        return boot_id, mono_ns, kind

    def _is_erased(self, device: str, identity: str) -> bool:
        return self._db.execute("SELECT 1 FROM erased WHERE device = ? AND identity = ?", (device, identity)).fetchone() is not None

    def _mark(self, device: str, spool: str, pairs: Iterable[tuple[int, int]]) -> None:
        known = self.ranges(device, spool)
        self._touched.add((device, spool))
        for low, high in pairs:
            known.add(low, high)
