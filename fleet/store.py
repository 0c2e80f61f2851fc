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
"""
KEPT_OF_DEAD_LETTER = 64 * 1024


class Store:
    """One connection, one thread. Nothing lasts before `commit`."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._known: dict[tuple[str, str], Intervals] = {}
        self._touched: set[tuple[str, str]] = set()

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

    def rollback(self) -> None:
        """Forget the batch."""
        self._db.execute("ROLLBACK")
        for key in self._touched:
            del self._known[key]
        self._touched.clear()

    def add(self, lane: str, envelope: wire.Envelope[dict[str, Any]], payload: bytes, received_at: float) -> bool:
        """Store a row; False if it is here already. A loss record also closes the gaps that it declares."""
        device, spool, seq = envelope.device, envelope.spool, envelope.seq
        said = (envelope.stream, envelope.kind, envelope.captured_at, envelope.mono_ns, envelope.boot_id)
        there = self._db.execute(
            "INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (device, spool, seq, lane, *said, received_at, payload)
        )
        self._mark(device, spool, [(seq, seq)])
        if lane == "loss":
            loss = wire.Loss.model_validate(envelope.data)
            self._mark(device, loss.spool, loss.ranges)
        return there.rowcount == 1

    def ranges(self, device: str, spool: str) -> Intervals:
        """The numbers of a spool that are stored or declared as lost."""
        key = (device, spool)
        if key not in self._known:
            found = self._db.execute("SELECT ranges FROM spools WHERE device = ? AND spool = ?", key).fetchone()
            self._known[key] = Intervals(tuple(pair) for pair in json.loads(found[0])) if found else Intervals()
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

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _mark(self, device: str, spool: str, pairs: Iterable[tuple[int, int]]) -> None:
        known = self.ranges(device, spool)
        self._touched.add((device, spool))
        for low, high in pairs:
            known.add(low, high)
