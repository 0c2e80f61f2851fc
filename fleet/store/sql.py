"""Where SQLite and PostgreSQL are asked in different words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, LargeBinary, Select, Table, cast, func, literal, tuple_
from sqlalchemy.dialects.postgresql import Insert as InsertPostgresql
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import Insert as InsertSqlite
from sqlalchemy.dialects.sqlite import insert as insert_sqlite

AT_ONCE = 5000
"""Keys in one question: SQLite takes 32,766 variables."""


def is_postgresql(connection: Connection) -> bool:
    """Whether it is one."""
    return connection.dialect.name == "postgresql"


def insert(connection: Connection, table: Table) -> InsertPostgresql | InsertSqlite:
    """An INSERT that may have an ON CONFLICT."""
    return insert_postgresql(table) if is_postgresql(connection) else insert_sqlite(table)


def run(connection: Connection, statement: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Once for each of the rows; they may be none."""
    if rows:
        connection.execute(statement, rows)


def add(connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows as they are, past SQLAlchemy's work on each value; none of the columns is JSON."""
    if rows:
        names, places = ", ".join(f'"{name}"' for name in columns), ", ".join(["%s" if is_postgresql(connection) else "?"] * len(columns))
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({places})", list(rows))


def where(connection: Connection, query: Select[Any], columns: Sequence[Any], keys: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """The rows of `query` in which `columns` are one of the `keys`."""
    for start in range(0, len(keys), AT_ONCE):
        yield from connection.execute(query.where(tuple_(*columns).in_(keys[start : start + AT_ONCE])))


def contains(connection: Connection, column: Any, needle: bytes) -> ColumnElement[bool]:
    """Whether bytes have `needle` in them."""
    if is_postgresql(connection):
        return func.position(cast(literal(needle), LargeBinary).op("IN")(column)) > 0
    return func.instr(column, needle) > 0


def lesser(connection: Connection, one: Any, other: Any) -> ColumnElement[float]:
    """The smaller of two numbers."""
    return func.least(one, other) if is_postgresql(connection) else func.min(one, other)


def greater(connection: Connection, one: Any, other: Any) -> ColumnElement[float]:
    """The larger of two numbers."""
    return func.greatest(one, other) if is_postgresql(connection) else func.max(one, other)


def among(columns: Sequence[Any], keys: Any) -> ColumnElement[bool]:
    """Whether columns are one of the `keys`, a list or a question."""
    return columns[0].in_(keys) if len(columns) == 1 else tuple_(*columns).in_(keys)
