"""All or nothing, also where the end of a transaction fails."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.transaction import transaction

pytestmark = pytest.mark.unit


def test_a_transaction_that_cannot_be_committed_is_undone_and_the_next_one_begins(tmp_path: Path) -> None:
    file = tmp_path / "some.sqlite"
    with (
        closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as writer,
        closing(sqlite3.connect(file, isolation_level=None)) as reader,
    ):
        writer.execute("CREATE TABLE numbers(n)")
        with transaction(reader, "DEFERRED"):
            assert reader.execute("SELECT * FROM numbers").fetchall() == []
            with pytest.raises(sqlite3.OperationalError, match="locked"), transaction(writer):
                writer.execute("INSERT INTO numbers VALUES (1)")
        with transaction(writer):
            writer.execute("INSERT INTO numbers VALUES (2)")
        assert reader.execute("SELECT n FROM numbers").fetchall() == [(2,)]
