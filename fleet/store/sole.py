"""One hub at a time on a SQLite file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from agent.errors import AlmenaError
from fleet.store.database import is_sqlite


@contextmanager
def sole_hub(url: str) -> Iterator[None]:
    """While this lasts no other hub starts on the same SQLite file; PostgreSQL takes several. Raises AlmenaError if another has it."""
    if not is_sqlite(url):
        yield
        return
    file = Path(make_url(url).database or "")
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode().strip()
            raise AlmenaError(
                f"a hub runs on {file} already (process {holder}): stop it first, or name another file; several hubs need PostgreSQL"
            ) from None
        os.pwrite(lock, f"{os.getpid():<20}".encode(), 0)
        yield
    finally:
        os.close(lock)
