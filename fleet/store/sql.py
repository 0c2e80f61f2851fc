"""Where SQLite and PostgreSQL are asked in different words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    Select,
    String,
    Table,
    Text,
    cast,
    func,
    literal,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import Insert as InsertPostgresql
from sqlalchemy.dialects.postgresql import insert as insert_postgresql
from sqlalchemy.dialects.sqlite import Insert as InsertSqlite
from sqlalchemy.dialects.sqlite import insert as insert_sqlite
from sqlalchemy.exc import DBAPIError

AT_ONCE = 5000
"""Keys in one question: SQLite takes 32,766 variables."""
COPIED = {str: "text", int: "int8", float: "float8", bytes: "bytea"}
"""PostgreSQL's types for values in its binary COPY."""


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
    names = ", ".join(f'"{name}"' for name in columns)
    if rows and is_postgresql(connection):
        _copy(connection, f"COPY {table.name} ({names}) FROM STDIN (FORMAT BINARY)", [table.c[name] for name in columns], rows)
    elif rows:
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({', '.join('?' * len(columns))})", list(rows))


def _copy(connection: Connection, statement: str, columns: Sequence[Column[Any]], rows: Sequence[tuple[Any, ...]]) -> None:
    """SQLAlchemy has no COPY; what the driver raises is raised as SQLAlchemy does it."""
    import psycopg

    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(statement) as target:
            target.set_types([COPIED[column.type.python_type] for column in columns])
            for row in rows:
                target.write_row(row)
    except psycopg.Error as error:
        raise DBAPIError.instance(statement, None, error, psycopg.Error, dialect=connection.dialect) from error


def where(connection: Connection, query: Select[Any], columns: Sequence[Any], keys: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
    """The rows of `query` in which `columns` are one of the `keys`."""
    if keys and is_postgresql(connection):  # a text that is always the same, and no variable for each key
        kinds = [Text() if isinstance(column.type, String) else column.type for column in columns]  # a VARCHAR(64)[] would be cut
        arrays = [literal(list(part), ARRAY(kind)) for kind, part in zip(kinds, zip(*keys, strict=True), strict=True)]
        listed = func.unnest(*arrays).table_valued(*(f"key{number}" for number in range(len(columns)))).render_derived()
        yield from connection.execute(query.where(tuple_(*columns).in_(select(*listed.c))))
        return
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
