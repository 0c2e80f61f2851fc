"""Back-ups: everything in one compressed file, from a running hub, for SQLite and PostgreSQL alike.

The file is gzip of JSON lines: first what it is, then each row with its table, at last how many there were.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, Integer, LargeBinary, Table, func, select, text
from sqlalchemy.exc import DataError, IntegrityError

from agent.errors import AlmenaError
from engines.files import replacing
from fleet.store.database import alembic, migrate, writing
from fleet.store.tables import duties, metadata, pictures, sessions

KIND = "almena hub"
PAGE = 1000
LEFT_OUT = (sessions, duties, pictures)
"""The first two belong to processes that run now; pictures are many, and kept for weeks only."""
NOT_ITS_FORM = (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError, IntegrityError, DataError)
"""What comes of JSON that is something else than a back-up."""


def backup(engine: Engine, file: Path) -> int:
    """Write what is stored at this moment to a new file, 0600; returns how many rows. Raises AlmenaError, OSError, SQLAlchemyError."""
    if file.exists():
        raise AlmenaError(f"{file} is there already: name a new file")
    rows = 0
    level = {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}
    with replacing(file) as part, engine.connect().execution_options(**level) as connection, connection.begin():
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as raw, gzip.open(raw, "wt", encoding="utf-8", compresslevel=5) as out:
            _line(out, {"kind": KIND, "revision": _revision(connection), "at": time.time()})
            for table in _tables():
                names, binary = [column.name for column in table.columns], _binary(table)
                for row in connection.execution_options(yield_per=PAGE).execute(select(table)):
                    _line(out, [table.name, [_text(value) if name in binary else value for name, value in zip(names, row, strict=True)]])
                    rows += 1
            _line(out, {"rows": rows})
    return rows


def restore(engine: Engine, file: Path) -> int:
    """Fill an empty database from a back-up, all or nothing; returns how many rows. Raises AlmenaError, OSError, SQLAlchemyError."""
    migrate(engine)
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines, writing(engine) as connection:
            return _fill(connection, file, lines)
    except (EOFError, gzip.BadGzipFile, zlib.error, *NOT_ITS_FORM) as error:
        raise AlmenaError(f"{file} is no back-up of a hub, or not the whole of it: {error}") from error


def _fill(connection: Connection, file: Path, lines: IO[str]) -> int:
    first = json.loads(next(lines, "{}"))
    if first.get("kind") != KIND:
        raise ValueError("it does not begin like one")
    if first["revision"] != _revision(connection):
        raise AlmenaError(f"{file} is of another version of the hub (tables {first['revision']}): restore it with that one, then upgrade")
    for table in _tables():
        if connection.execute(select(table).limit(1)).first() is not None:
            raise AlmenaError(f"the database is not empty (table {table.name}): name one that does not exist yet")
    rows, total = 0, None
    for name, page in _pages(json.loads(line) for line in lines):
        if isinstance(page, int):
            total = page
            break
        table = metadata.tables[name]
        names, binary, kinds = [column.name for column in table.columns], _binary(table), _kinds(table)
        found = [dict(zip(names, row, strict=True)) for row in page]
        for column, kind in kinds.items():
            if strange := {type(row[column]) for row in found} - {*kind, type(None)}:
                raise ValueError(f"table {name}, column {column}: {strange.pop().__name__} where {kind[0].__name__} belongs")
        for row in found:
            row.update({each: base64.b64decode(row[each]) for each in binary if row[each] is not None})
        connection.execute(table.insert(), found)
        rows += len(found)
    if rows != total:
        raise ValueError(f"{rows} rows instead of {total}")
    if next(lines, None) is not None:  # gzip looks at its checksum there
        raise ValueError("it goes on behind its end")
    _count_on(connection)
    return rows


def _pages(lines: Iterator[Any]) -> Iterator[tuple[str, Any]]:
    """Rows of one table together, at most PAGE; at last their number in all."""
    name = ""
    page: list[Any] = []
    for line in lines:
        if page and (isinstance(line, dict) or line[0] != name or len(page) == PAGE):
            yield name, page
            page = []
        if isinstance(line, dict):
            yield "", int(line["rows"])
            return
        name = line[0]
        page.append(line[1])


def _count_on(connection: Connection) -> None:
    """Numbers that PostgreSQL gives go on above those that are there."""
    if connection.dialect.name != "postgresql":
        return
    for table in _tables():
        key = next(iter(table.primary_key))
        if key.autoincrement is True and isinstance(key.type, Integer):
            highest = connection.execute(select(func.max(key))).scalar()
            if highest is not None:
                sequence = text("SELECT setval(pg_get_serial_sequence(:table, :key), :highest)")
                connection.execute(sequence, {"table": table.name, "key": key.name, "highest": highest})


def _tables() -> list[Table]:
    return [table for table in metadata.sorted_tables if table not in LEFT_OUT]


def _binary(table: Table) -> list[str]:
    return [column.name for column in table.columns if isinstance(column.type, LargeBinary)]


def _kinds(table: Table) -> dict[str, tuple[type, ...]]:
    """By column, as what its values come; SQLite would take any. Not of JSON, which may be anything."""
    known: dict[type, tuple[type, ...]] = {int: (int,), float: (float, int), str: (str,), bool: (bool,), bytes: (str,)}
    return {column.name: known[column.type.python_type] for column in table.columns if column.type.python_type in known}


def _text(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def _line(out: IO[str], value: Any) -> None:
    out.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")


def _revision(connection: Connection) -> str:
    return str(ScriptDirectory.from_config(alembic(connection)).get_current_head())
