"""The gallery's file: SQLite whose personal fields are sealed with AES-256-GCM."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.errors import AlmenaError
from agent.outbox.guard import make_private
from agent.transaction import transaction
from agent.vault import Vault, VaultKeyError

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS identities (id TEXT PRIMARY KEY, record BLOB NOT NULL, created_at REAL NOT NULL, expires_at REAL,
    origin TEXT NOT NULL DEFAULT '', revision INTEGER NOT NULL DEFAULT 1);
CREATE TABLE IF NOT EXISTS pictures (id TEXT PRIMARY KEY, identity TEXT NOT NULL, picture BLOB, added_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS pictures_identity ON pictures (identity);
CREATE TABLE IF NOT EXISTS templates (picture TEXT NOT NULL, model TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (picture, model));
CREATE TABLE IF NOT EXISTS clusters (id TEXT PRIMARY KEY, model TEXT NOT NULL, vectors BLOB NOT NULL, sightings INTEGER NOT NULL,
    created_at REAL NOT NULL, seen_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS receipts (id TEXT PRIMARY KEY, identity TEXT NOT NULL, reason TEXT NOT NULL, erased_at REAL NOT NULL,
    pictures INTEGER NOT NULL, templates INTEGER NOT NULL, clusters INTEGER NOT NULL, followed INTEGER NOT NULL DEFAULT 0);
"""
ADDED = {
    "receipts": {"followed": "INTEGER NOT NULL DEFAULT 0"},
    "identities": {"origin": "TEXT NOT NULL DEFAULT ''", "revision": "INTEGER NOT NULL DEFAULT 1"},
}
"""Columns that galleries of earlier versions lack."""
BUSY_S = 5.0


class GalleryError(AlmenaError):
    """The gallery cannot be read or written."""


class GalleryKeyError(GalleryError):
    """The gallery's key is missing, readable by others, or not the one that the gallery was made with."""


class Store:
    """One connection, used by several threads in turn. Other processes may have the file open too."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._vault = Vault(key)
        try:
            make_private(path, 0o600)  # SQLite gives its log and index the same mode
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise GalleryError(f"{path} cannot be opened ({error}); if it is damaged, move it away and enrol again") from error

    def _prepare(self) -> None:
        try:
            damage = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise sqlite3.DatabaseError(damage)
            for pragma in ("journal_mode=WAL", "secure_delete=ON", "synchronous=FULL", "temp_store=MEMORY"):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._db.executescript(SCHEMA)
            with self.write():
                for table, columns in ADDED.items():
                    there = [column[1] for column in self._db.execute(f"PRAGMA table_info({table})")]
                    for name in columns.keys() - there:
                        self._db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {columns[name]}")
                row = self._db.execute("SELECT value FROM meta WHERE key = 'key check'").fetchone()
                if row is None:
                    self._db.execute("INSERT INTO meta VALUES ('key check', ?)", (self.seal(b"almena", "key check"),))
            if row is not None:
                self.unseal(row[0], "key check")
        except BaseException:
            self._db.close()
            raise

    def seal(self, plain: bytes, place: str) -> bytes:
        """Encrypt, bound to `place`."""
        return self._vault.seal(plain, place)

    def unseal(self, sealed: bytes, place: str) -> bytes:
        """Decrypt. Raises GalleryKeyError."""
        try:
            return self._vault.unseal(sealed, place)
        except VaultKeyError:
            raise GalleryKeyError(f"{self.path} was made with another key; bring the old key back, or move the gallery away") from None

    def seal_json(self, value: Any, place: str) -> bytes:
        """Encrypt a JSON value."""
        return self.seal(json.dumps(value).encode(), place)

    def unseal_json(self, sealed: bytes, place: str) -> Any:
        """The inverse of `seal_json`."""
        return json.loads(self.unseal(sealed, place))

    def seal_vectors(self, vectors: NDArray[np.float32], place: str) -> bytes:
        """Encrypt (N, D) float32."""
        count = np.array([len(vectors)], "<u4").tobytes()
        return self.seal(count + np.ascontiguousarray(vectors, "<f4").tobytes(), place)

    def unseal_vectors(self, sealed: bytes, place: str) -> NDArray[np.float32]:
        """The inverse of `seal_vectors`."""
        plain = self.unseal(sealed, place)
        count = int(np.frombuffer(plain[:4], "<u4")[0])
        return np.frombuffer(plain[4:], "<f4").reshape(count, -1).astype(np.float32)

    def secret(self, name: str, new: Callable[[], bytes]) -> bytes:
        """Bytes that are made once and kept sealed."""
        place = f"secret {name}"
        with self.write():
            if not (rows := self._db.execute("SELECT value FROM meta WHERE key = ?", (place,)).fetchall()):
                rows = [(self.seal(new(), place),)]
                self._db.execute("INSERT INTO meta VALUES (?, ?)", (place, *rows[0]))
            return self.unseal(rows[0][0], place)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read."""
        with self.lock, self._typed():
            return self._db.execute(query, values).fetchall()

    def execute(self, query: str, *values: Any) -> int:
        """Change rows inside `write`; how many."""
        with self._typed():
            return self._db.execute(query, values).rowcount

    @contextmanager
    def write(self) -> Iterator[None]:
        """One transaction."""
        with self.lock, self._typed(), transaction(self._db):
            yield

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise GalleryError(f"{self.path}: {error}") from error

    def foreign_version(self) -> int:
        """Changes when another connection has committed something."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def scrub(self) -> None:
        """Leave no deleted byte in the file or in its write-ahead log. Raises GalleryError while another process reads all the time."""
        with self.lock, self._typed():
            self._db.execute("VACUUM")
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise GalleryError(f"{self.path}: erased, but its log is in use by another process; the agent clears it, or erase again")

    def close(self) -> None:
        """Close the connection. Calling it twice does no harm."""
        with self.lock:
            self._db.close()
