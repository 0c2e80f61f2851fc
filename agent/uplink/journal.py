"""Commands that were seen, with their replies, so that a repeat gets the same answer and is not carried out again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

KEPT = 10_000

_SCHEMA = "CREATE TABLE IF NOT EXISTS commands (n INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, reply BLOB)"


class Journal:
    """One connection, one thread; durable when a method returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(_SCHEMA)

    def begin(self, command: str) -> bool:
        """Note a command before it is carried out; False if it was noted before."""
        fresh = self._db.execute("INSERT OR IGNORE INTO commands (id) VALUES (?)", (command,)).rowcount == 1
        if fresh:
            self._db.execute("DELETE FROM commands WHERE n <= (SELECT max(n) FROM commands) - ?", (KEPT,))
        return fresh

    def finish(self, command: str, reply: bytes) -> None:
        """Keep its reply."""
        self._db.execute("UPDATE commands SET reply = ? WHERE id = ?", (reply, command))

    def reply(self, command: str) -> bytes | None:
        """The stored reply; None if the process ended before there was one."""
        found = self._db.execute("SELECT reply FROM commands WHERE id = ?", (command,)).fetchone()
        return found[0] if found else None

    def close(self) -> None:
        """Close the file."""
        self._db.close()
