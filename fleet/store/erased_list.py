"""Who was erased, in a file outside the database: a back-up, or any other old copy of the database, does not bring them back.

A line of JSON for each: device and identity, no name. Keep it apart from the back-ups.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import Engine, select

from fleet.store import erasure, sql
from fleet.store.database import writing
from fleet.store.tables import erased

Entry = tuple[str, str]
"""Device and identity."""


class ErasedList:
    """The file, 0600; it need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> set[Entry]:
        """All of them, but for a line whose end was not written. Raises OSError."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        found = set()
        for line in lines:
            try:
                device, identity = json.loads(line)
            except ValueError:
                continue
            found.add((str(device), str(identity)))
        return found

    def add(self, entries: Iterable[Entry]) -> None:
        """Write them down, durably. Raises OSError."""
        lines = "".join(f"\n{json.dumps(entry)}\n" for entry in entries)
        if not lines:
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


def reconcile(engine: Engine, kept: ErasedList) -> int:
    """Have the list and the database know the same; returns how many were erased again in a database that had forgotten it.

    Raises OSError, SQLAlchemyError.
    """
    listed = kept.read()
    with writing(engine) as connection:
        known = {(row.device, row.identity) for row in connection.execute(select(erased))}
        again = sorted(listed - known)
        sql.run(
            connection,
            sql.insert(connection, erased).on_conflict_do_nothing(),
            [dict(zip(("device", "identity"), one, strict=True)) for one in again],
        )
        for device, identity in again:
            erasure.scrub(connection, device, identity)
    kept.add(sorted(known - listed))
    return len(again)
