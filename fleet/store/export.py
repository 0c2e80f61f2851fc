"""Events as a table in a file: CSV (RFC 4180) or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from agent.envelopes import cell
from agent.errors import AlmenaError, UsageError
from engines.files import replacing
from fleet.store.tables import events

COLUMNS = ("device", "spool", "seq", "stream", "kind", "type", "subject", "at", "captured_at", "received_at", "clock", "model", "data")
NUMBERS = ("at", "captured_at", "received_at")
FORMATS = (".csv", ".parquet")
PAGE = 5000


def export(engine: Engine, file: Path, *, device: str | None = None, since: float | None = None, until: float | None = None) -> int:
    """Write events in the order of their time; the ending of the file's name says as what. `data` is JSON. Returns how many.

    Raises UsageError for another ending or a folder of that name, AlmenaError where pyarrow is missing, OSError.
    """
    if file.suffix not in FORMATS:
        raise UsageError(f"{file}: the name must end with one of {', '.join(FORMATS)}")
    if file.is_dir():
        raise UsageError(f"{file} is a folder: name a file")
    with replacing(file) as part:
        pages = _pages(engine, device, since, until)
        return _csv(part, pages) if file.suffix == ".csv" else _parquet(part, pages)


def _pages(engine: Engine, device: str | None, since: float | None, until: float | None) -> Iterator[list[tuple[Any, ...]]]:
    query = select(*(events.c[name] for name in COLUMNS[:-1]), events.c.payload).order_by(events.c.at, events.c.id)
    if device is not None:
        query = query.where(events.c.device == device)
    if since is not None:
        query = query.where(events.c.at >= since)
    if until is not None:
        query = query.where(events.c.at < until)
    with engine.connect() as connection:
        for page in connection.execution_options(yield_per=PAGE).execute(query).partitions():
            yield [(*row[:-1], json.dumps(json.loads(row[-1])["data"], ensure_ascii=False)) for row in page]


def _csv(file: Path, pages: Iterator[list[tuple[Any, ...]]]) -> int:
    count = 0
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for page in pages:
            writer.writerows([cell(value) for value in row] for row in page)
            count += len(page)
    return count


def _parquet(file: Path, pages: Iterator[list[tuple[Any, ...]]]) -> int:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise AlmenaError("Parquet needs pyarrow: pip install 'almena[parquet]'") from error
    types = {"seq": arrow.int64(), **{name: arrow.float64() for name in NUMBERS}}
    schema = arrow.schema([(name, types.get(name, arrow.string())) for name in COLUMNS])
    count = 0
    with parquet.ParquetWriter(file, schema) as writer:
        for page in pages:
            columns = [arrow.array(values, field.type) for values, field in zip(zip(*page, strict=True), schema, strict=True)]
            writer.write_batch(arrow.record_batch(columns, schema=schema))
            count += len(page)
    return count
