"""The database by its URL: connections, and migrations at the start."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from agent.errors import AlmenaError, SettingsError

LOCK_WAIT_S = 30
CACHE_KIB = 32 * 1024
"""Of a connection to SQLite. With its default of 2 MiB a large store spends a fifth of its time on reading pages of indexes again."""
_MIGRATING = 0x616C6D656E61
"""Key of the advisory lock under which one instance migrates a PostgreSQL."""


def is_sqlite(url: str) -> bool:
    """Whether `url` is of a SQLite file."""
    return url.startswith("sqlite")


def connect(url: str, *, readers: int = 5) -> Engine:
    """An engine for `sqlite:///FILE` or `postgresql://…`. On SQLite commits are on the disk when they return. Raises SettingsError."""
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.drivername not in ("sqlite", "postgresql+psycopg"):
            raise SettingsError(f"store: {parsed.drivername} is no database of the hub; give sqlite:///FILE or postgresql://…")
        if parsed.drivername == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(parsed, connect_args={"timeout": LOCK_WAIT_S}, pool_size=readers)
            event.listen(engine, "connect", _tune_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return engine
        return create_engine(parsed, pool_size=readers, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError, OSError) as error:
        raise SettingsError(f"store: the URL of the database cannot be used: {error}") from error


@contextmanager
def writing(engine: Engine, wait_s: float = LOCK_WAIT_S) -> Iterator[Connection]:
    """A transaction that writes: on SQLite it waits for its turn at once, and not when it has read something that is old by then.

    Raises sqlalchemy.exc.OperationalError where others keep it waiting longer than `wait_s`; PostgreSQL has that limit only if it is given.
    """
    with engine.connect().execution_options(writes=True, wait_s=wait_s) as connection, connection.begin():
        if wait_s < LOCK_WAIT_S and connection.dialect.name == "postgresql":
            connection.execute(text(f"SET LOCAL lock_timeout = {round(wait_s * 1000)}"))
        yield connection


def migrate(engine: Engine) -> None:
    """Bring the tables to this version; of several instances one does it. Raises AlmenaError where the database cannot be used."""
    try:
        with writing(engine) as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATING})
            command.upgrade(alembic(connection), "head")
    except CommandError as error:
        raise AlmenaError(
            f"the database of the hub is of another version of Almena ({error}): run that version or a newer one, or name another database"
        ) from error
    except SQLAlchemyError as error:
        raise unusable(error) from error


def unusable(error: SQLAlchemyError) -> AlmenaError:
    """What people are told of a database that is not there, or does not do as it should."""
    reason = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
    return AlmenaError(f"the database of the hub cannot be used: {reason}; see that it runs, and that `store` names it")


def alembic(connection: Connection) -> Config:
    """Where the migrations are, and the connection that they go through."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql(f"PRAGMA busy_timeout={round(options.get('wait_s', LOCK_WAIT_S) * 1000)}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes") else "BEGIN")


def _tune_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # `begin` says when a transaction starts
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", f"cache_size=-{CACHE_KIB}"):
        connection.execute(f"PRAGMA {pragma}")
