"""Back-ups and exports of the hub's store. tests/integration/test_hub_postgres.py carries a back-up from SQLite to PostgreSQL and back."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select

from agent.errors import AlmenaError, UsageError
from fleet.store.backup import backup, restore
from fleet.store.database import connect
from fleet.store.export import export
from fleet.store.tables import metadata, users
from tests.fakes.hub_store import EVENTS, NOW, StoredHub, message, other

pytestmark = pytest.mark.unit


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StoredHub]:
    one = StoredHub(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    fill(one)
    yield one
    one.store.close()


def fill(hub: StoredHub) -> None:
    """A little of everything."""
    for number in (1, 2, 3):
        hub.take(EVENTS, message(number, captured_at=NOW - number, data={"n": number, "text": "=ñ\n"}, model="=1+1"))
    hub.write(other("telemetry", 1, {"samples": [{"at": NOW, "system": {"cpu_percent": 7}}]}), (EVENTS, b"\xff"))
    with hub.store.engine.begin() as connection:
        connection.execute(users.insert().values(name="ada", hash="h", role="admin", created_at=NOW))


def content(hub: StoredHub) -> dict[str, Any]:
    """All rows of all tables."""
    with hub.store.engine.connect() as connection:
        return {table.name: sorted(map(str, connection.execute(select(table)))) for table in metadata.sorted_tables}


def test_a_backup_brings_everything_back(hub: StoredHub, tmp_path: Path) -> None:
    rows = backup(hub.store.engine, tmp_path / "b.gz")
    assert (tmp_path / "b.gz").stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlmenaError, match="there already"):
        backup(hub.store.engine, tmp_path / "b.gz")
    with pytest.raises(AlmenaError, match="not empty"):
        restore(hub.store.engine, tmp_path / "b.gz")
    new = StoredHub(f"sqlite:///{tmp_path / 'new.sqlite'}")
    assert restore(new.store.engine, tmp_path / "b.gz") == rows > 6
    assert content(new) == content(hub)
    assert new.take(EVENTS, message(4)) == hub.take(EVENTS, message(4))
    new.store.close()


DAMAGED = (
    "cut", "another", "text", "shorter", "turned", "list", "no rows", "no row", "foreign values", "number as text",
    "nested", "checksum", "twice",
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_no_backup_changes_nothing(hub: StoredHub, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "b.gz"
    backup(hub.store.engine, file)
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    whole, row = file.read_bytes(), lines[1].split(b",")[0]
    file.write_bytes({
        "cut": file.read_bytes()[:-200],
        "another": gzip.compress(b'{"kind": "else"}\n'),
        "text": b"hello",
        "shorter": gzip.compress(b"".join([*lines[:3], *lines[4:]])),
        "turned": whole[:100] + bytes(255 - byte for byte in whole[100:200]) + whole[200:],
        "list": gzip.compress(b"[1]\n"),
        "no rows": gzip.compress(lines[0] + b"[]\n"),
        "no row": gzip.compress(lines[0] + row + b",5]\n" + lines[-1]),
        "foreign values": gzip.compress(lines[0] + b'["users",[{},[],{},{},{}]]\n{"rows":1}\n'),
        "number as text": gzip.compress(lines[0] + b'["clocks",["cam-1","b","5",1.0,1.0]]\n{"rows":1}\n'),
        "checksum": whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:],
        "twice": gzip.compress(b"".join([lines[0], lines[1], lines[1], b'{"rows":2}\n'])),
        "nested": gzip.compress(lines[0] + b"[" * 100_000 + b"\n"),
    }[damage])  # fmt: skip
    new = StoredHub(f"sqlite:///{tmp_path / 'new.sqlite'}")
    with pytest.raises(AlmenaError, match="no back-up"):
        restore(new.store.engine, file)
    assert not any(content(new).values())
    new.store.close()


def test_events_as_csv_and_parquet(hub: StoredHub, tmp_path: Path) -> None:
    assert export(hub.store.engine, tmp_path / "e.csv") == 3
    with (tmp_path / "e.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seq"], row["model"], json.loads(row["data"])["text"]) for row in rows] == [(str(n), "'=1+1", "=ñ\n") for n in (3, 2, 1)]
    assert export(hub.store.engine, tmp_path / "e.parquet", device="dev-9", since=NOW - 2, until=NOW - 1) == 1
    (row,) = pyarrow.parquet.read_table(tmp_path / "e.parquet").to_pylist()
    assert (row["seq"], row["at"], row["model"]) == (2, NOW - 2, "=1+1")
    (tmp_path / "old.csv").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        export(hub.store.engine, tmp_path / "old.csv")
    assert (tmp_path / "old.csv").is_dir()
    with pytest.raises(UsageError, match=r"\.csv, \.parquet"):
        export(hub.store.engine, tmp_path / "e.xls")


def test_migrations_make_the_tables_of_this_version(hub: StoredHub) -> None:
    with hub.store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_what_is_no_database_of_the_hub() -> None:
    for url in ("mysql://x/y", "nonsense", "postgresql://almena@127.0.0.1:port/x"):
        with pytest.raises(AlmenaError, match="store: "):
            connect(url)
