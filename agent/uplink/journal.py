"""Commands that were seen, with their replies, so that a repeat gets the same answer and is not carried out again."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from agent.errors import AlmenaError
from agent.outbox import recovery, schema

log = logging.getLogger(__name__)

T = TypeVar("T")
KEPT = 10_000

_SCHEMA = "CREATE TABLE IF NOT EXISTS commands (n INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, reply BLOB)"


class JournalError(AlmenaError):
    """The file cannot be opened, read or written now."""


class Journal:
    """One connection, one thread; durable when a method returns. Methods raise JournalError.

    A damaged file is set aside and a new one begun; what was carried out before is forgotten with it. A file that cannot be opened, on a
    full disk for example, is tried again each time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        try:
            self._use(lambda _db: None)
        except JournalError as error:
            log.warning("%s; commands are refused while that is so", error)

    def begin(self, command: str) -> bool:
        """Note a command before it is carried out; False if it was noted before."""

        def note(db: sqlite3.Connection) -> bool:
            fresh = db.execute("INSERT OR IGNORE INTO commands (id) VALUES (?)", (command,)).rowcount == 1
            if fresh:
                db.execute("DELETE FROM commands WHERE n <= (SELECT max(n) FROM commands) - ?", (KEPT,))
            return fresh

        return self._use(note)

    def finish(self, command: str, reply: bytes) -> None:
        """Keep its reply."""
        self._use(lambda db: db.execute("REPLACE INTO commands (id, reply) VALUES (?, ?)", (command, reply)))

    def reply(self, command: str) -> bytes | None:
        """The stored reply; None if the process ended before there was one."""
        found = self._use(lambda db: db.execute("SELECT reply FROM commands WHERE id = ?", (command,)).fetchone())
        return found[0] if found else None

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
            self._db = None

    def _use(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            try:
                return work(self._opened())
            except sqlite3.Error as error:
                if not schema.is_corrupt(error):
                    raise
                self._set_aside(error)
                return work(self._opened())
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{self._path}, the journal of commands, cannot be used: {error}") from error

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            db = schema.connect(self._path, "FULL")
            try:
                schema.check(db)
                db.execute(_SCHEMA)
            except sqlite3.Error:
                db.close()
                raise
            self._db = db
        return self._db

    def _set_aside(self, damage: sqlite3.Error) -> None:
        self.close()
        recovery.set_aside(self._path)
        recovery.keep_aside(self._path)
        lost = "replies until now are lost, and a command from before that comes again is carried out again"
        log.warning("%s is damaged (%s) and lies in %s.corrupt: %s", self._path, damage, self._path, lost)
