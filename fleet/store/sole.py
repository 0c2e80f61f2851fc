"""One hub at a time on a SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from agent.errors import AlmenaError, SettingsError
from engines.files import HeldError, locked
from fleet.store.database import is_sqlite


@contextmanager
def sole_hub(url: str) -> Iterator[None]:
    """While this lasts no other hub starts on the same SQLite file; PostgreSQL takes several. Raises AlmenaError if another has it."""
    if not is_sqlite(url):
        yield
        return
    file = Path(make_url(url).database or "")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(Path(f"{file}.lock"))
    except HeldError as holder:
        raise AlmenaError(
            f"a hub runs on {file} already (process {holder}): stop it first, or name another file; several hubs need PostgreSQL"
        ) from None
    except OSError as error:
        raise SettingsError(f"store: the file of the database cannot be written: {error}") from error
    with lock:
        yield
