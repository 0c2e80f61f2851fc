"""The database file: its tables and how it is opened."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path

from agent.outbox.rows import OutboxError, OutboxFullError, OutboxReadOnlyError

BUSY_S = 10.0
WRITE_BACK_MS = 300
"""How long one attempt to empty the log may keep writers waiting."""
FORMAT = 4
INDEX_ROOM = 128 * 1024
LARGEST = 2**63 - 1
"""The largest number of a row."""
LOG_PAGES = 200
"""The log is written back at this many pages, so that it (and what that adds to the database) stays below the reserve."""

_TABLES = """
CREATE TABLE lanes(
  lane TEXT PRIMARY KEY, spool TEXT NOT NULL, seq INTEGER NOT NULL, produced INTEGER NOT NULL, settled INTEGER NOT NULL,
  lost INTEGER NOT NULL, acknowledged INTEGER NOT NULL, floor INTEGER NOT NULL, booked INTEGER NOT NULL,
  pending_bytes INTEGER NOT NULL, history_bytes INTEGER NOT NULL);
CREATE TABLE boots(n INTEGER PRIMARY KEY, boot_id TEXT UNIQUE NOT NULL, started_at REAL);
CREATE TABLE rows(
  n INTEGER PRIMARY KEY, lane TEXT NOT NULL, spool TEXT NOT NULL, seq INTEGER NOT NULL, state INTEGER NOT NULL, tries INTEGER NOT NULL,
  stream TEXT NOT NULL, kind TEXT NOT NULL, captured_at REAL NOT NULL, stored_at REAL NOT NULL, boot INTEGER NOT NULL, mono_s REAL NOT NULL,
  size INTEGER NOT NULL, checksum INTEGER NOT NULL, note TEXT NOT NULL, payload BLOB NOT NULL);
CREATE UNIQUE INDEX rows_numbered ON rows(lane, seq);
CREATE INDEX rows_pending ON rows(lane, seq) WHERE state = 0;
CREATE INDEX rows_done ON rows(n) WHERE state > 0;
CREATE INDEX rows_captured ON rows(lane, captured_at);
CREATE TABLE keys(n INTEGER PRIMARY KEY, lane TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL);
CREATE UNIQUE INDEX keys_named ON keys(lane, key);
CREATE TABLE losses(
  n INTEGER PRIMARY KEY, lane TEXT NOT NULL, spool TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL, ranges TEXT NOT NULL,
  since REAL NOT NULL, until REAL NOT NULL);
CREATE TABLE alarms(n INTEGER PRIMARY KEY, raised_at REAL NOT NULL, text TEXT NOT NULL);
"""

_ADDED = """
CREATE TABLE IF NOT EXISTS erasures(n INTEGER PRIMARY KEY, erased_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS spools(n INTEGER PRIMARY KEY, lane TEXT NOT NULL, spool TEXT NOT NULL, first INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS doubts(n INTEGER PRIMARY KEY, spool TEXT UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS open_tracks(
  n INTEGER PRIMARY KEY, stream TEXT NOT NULL, kind TEXT NOT NULL, track TEXT NOT NULL, payload BLOB NOT NULL,
  UNIQUE(stream, kind, track));
"""


class NewerFormatError(Exception):
    """The file was written by a later version."""


def need_room(path: Path) -> None:
    """Raise OSError if there is no room for the index that SQLite makes of the log when it opens a file: it would say `I/O error`."""
    if not Path(f"{path}-shm").exists() and shutil.disk_usage(path.parent).free < INDEX_ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    """A connection in WAL mode; transactions are begun and ended by hand. Raises sqlite3.Error, OSError."""
    need_room(path)
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("PRAGMA cell_size_check=ON")
        connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
        connection.execute("PRAGMA journal_size_limit=0")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def prepare(connection: sqlite3.Connection) -> bool:
    """Make the tables where there are none; True if they were made. Raises NewerFormatError."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT:
        raise NewerFormatError
    if version == FORMAT:
        return False
    if version:
        connection.executescript(f"BEGIN IMMEDIATE;{_ADDED}PRAGMA user_version={FORMAT};COMMIT;")
        return False
    connection.executescript(f"BEGIN IMMEDIATE;{_TABLES}{_ADDED}PRAGMA user_version={FORMAT};COMMIT;")
    return True


def check(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError if the file's structure is broken."""
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(f"database disk image is malformed: {found}")


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the file itself is bad, so that trying again cannot help."""
    text = str(error)
    return any(sign in text for sign in ("malformed", "not a database", "no such table", "UNIQUE constraint failed: rows"))


def is_full(error: Exception) -> bool:
    """Whether the disk (or a quota) has no room."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "full" in str(error)


def error_of(error: Exception) -> type[OutboxError]:
    """What the outbox raises for it."""
    if is_full(error):
        return OutboxFullError
    read_only = error.errno == errno.EROFS if isinstance(error, OSError) else "readonly" in str(error)
    return OutboxReadOnlyError if read_only else OutboxError


def write_back(connection: sqlite3.Connection) -> bool:
    """Empty the log into the database. False while somebody still reads from the log."""
    connection.execute(f"PRAGMA busy_timeout={WRITE_BACK_MS}")
    try:
        busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        connection.execute(f"PRAGMA busy_timeout={int(BUSY_S * 1000)}")
    return not busy


def is_storage(error: sqlite3.Error) -> bool:
    """Whether the disk is to blame, not what was to be written."""
    return is_full(error) or "I/O error" in str(error)
