"""Files of an outbox that an earlier or a later version has written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.datatypes import Event
from agent.outbox import Outbox, OutboxError
from agent.settings import OutboxSettings

pytestmark = pytest.mark.unit


def event(**data: Any) -> Event:
    return Event("cam", "count", data, 1.0, 1)


def altered(folder: Path, script: str) -> None:
    """Run SQL on the files of an outbox that is closed, to make them those of another format."""
    for name in ("outbox", "telemetry"):
        with closing(sqlite3.connect(folder / f"{name}.db")) as connection:
            connection.executescript(script)


def test_an_erasure_is_counted_also_in_a_file_of_the_first_format(tmp_path: Path) -> None:
    with Outbox.open(tmp_path / "outbox", "dev", OutboxSettings()) as outbox:
        outbox.append("event", [event(identity="i1", name="Zacharias")])
    altered(tmp_path / "outbox", "DROP TABLE erasures; DROP TABLE spools; DROP TABLE doubts; PRAGMA user_version=1;")
    with Outbox.open(tmp_path / "outbox", "dev", OutboxSettings()) as outbox:
        before = outbox.erasures()
        assert outbox.erase("i1") == 1
        assert outbox.erasures() > before


def test_doubt_can_be_kept_in_a_file_of_the_second_format(tmp_path: Path) -> None:
    with Outbox.open(tmp_path / "outbox", "dev", OutboxSettings()) as outbox:
        outbox.append("event", [event(number=1)])
    altered(tmp_path / "outbox", "DROP TABLE doubts; PRAGMA user_version=2;")
    with Outbox.open(tmp_path / "outbox", "dev", OutboxSettings()) as outbox:
        spool = outbox.stats()["event"]["spool"]
        outbox.start_spool("event", "the hub knows better")
        assert outbox.doubtful() == {spool}


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    Outbox.open(tmp_path / "outbox", "dev", OutboxSettings()).close()
    altered(tmp_path / "outbox", "PRAGMA user_version=99")
    with pytest.raises(OutboxError, match="later version"):
        Outbox.open(tmp_path / "outbox", "dev", OutboxSettings())
