"""A full disk and damaged files, for real."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from agent.datatypes import Event
from agent.outbox import Outbox, OutboxError, OutboxFullError
from agent.settings import OutboxSettings
from tests.fakes import small_disk as disk
from tests.fakes.clock import FakeClock
from tests.waiting import wait_until

ROWS = 400


def event(number: int, pad: int = 1500) -> Event:
    return Event("cam", "count", {"number": number, "pad": "x" * pad}, 1.0, 1)


def balanced(outbox: Outbox) -> dict[str, dict[str, Any]]:
    stats = outbox.stats()
    for lane, books in stats.items():
        assert books["produced"] == books["settled"] + books["lost"] + books["pending"], (lane, books)
    return stats


def opened(folder: Path, boot: str = "") -> Outbox:
    return Outbox.open(folder, "dev", OutboxSettings(), FakeClock(boot) if boot else None)


def declared(outbox: Outbox) -> int:
    """Deliver every loss record; how many events they tell of."""
    total = 0
    for _ in range(20):
        for row in outbox.pending("loss", 100):
            total += json.loads(row.payload)["data"]["count"]
            outbox.settle("loss", row.spool, upto=row.seq)
    assert outbox.pending("loss", 1) == []
    return total


@disk.on_small_disk(8)
def test_a_full_disk_costs_only_what_is_declared(small_disk: Path) -> None:
    produced = 0
    with opened(small_disk / "outbox") as outbox:
        failures = 0
        while failures < 5:
            try:
                outbox.append("event", [event(produced + step) for step in range(20)])
            except OutboxFullError:
                failures += 1
            produced += 20
            assert produced < 20_000
        books = balanced(outbox)["event"]
        assert (books["produced"], books["lost"]) == (produced, 100)
        assert "full" in books["alarm"]
    with opened(small_disk / "outbox") as outbox:
        assert balanced(outbox)["event"]["lost"] == 100
        disk.enlarge(small_disk)
        outbox.append("event", [event(produced)])
        books = balanced(outbox)["event"]
        assert (books["produced"], books["lost"], books["alarm"]) == (produced + 1, 100, "")
        assert declared(outbox) == 100


@disk.on_small_disk(8)
def test_a_disk_filled_by_others_is_survived_again_and_again(small_disk: Path) -> None:
    produced = lost = 0
    with opened(small_disk / "outbox") as outbox:
        for _ in range(3):
            filler = disk.fill(small_disk)
            while True:
                produced += 1
                try:
                    outbox.append("event", [event(produced)])
                except OutboxFullError:
                    lost += 1
                    if lost % 7 == 0:
                        break
            balanced(outbox)
            filler.unlink()
            for row in outbox.pending("event", 10_000):
                outbox.settle("event", row.spool, upto=row.seq)
            produced += 1
            outbox.append("event", [event(produced)])
            assert balanced(outbox)["event"]["lost"] == lost
        assert declared(outbox) == lost
        assert outbox.stats()["event"]["produced"] == produced


@disk.on_small_disk(8)
def test_a_process_that_starts_opens_what_another_has_open_without_any_room(small_disk: Path) -> None:
    with opened(small_disk / "outbox") as outbox:
        outbox.append("event", [event(1)])
        (small_disk / "outbox" / "reserve").unlink()
        disk.fill(small_disk)
        with opened(small_disk / "outbox") as other:
            assert [row.seq for row in other.pending("event", 10)] == [1]


def written(folder: Path) -> None:
    """Rows 1..ROWS, the first hundred settled; nothing left in the log."""
    with opened(folder) as outbox:
        for first in range(0, ROWS, 40):
            outbox.append("event", [event(number + 1) for number in range(first, first + 40)])
        outbox.settle("event", outbox.pending("event", 1)[0].spool, upto=100)


def recovered(folder: Path, boot: str = "") -> int:
    """What a damaged outbox still has. Everything else is declared, exactly; and it goes on."""
    with opened(folder, boot) as outbox:
        rows = outbox.pending("event", 10_000)
        numbers = [json.loads(row.payload)["data"]["number"] for row in rows]
        assert numbers == [row.seq for row in rows], "rows keep their numbers"
        assert len(numbers) == len(set(numbers))
        assert all(number > 100 for number in numbers), "what was settled is not sent again"
        books = balanced(outbox)["event"]
        assert books["produced"] == ROWS
        assert books["lost"] == ROWS - 100 - len(numbers)
        assert declared(outbox) == books["lost"]
        assert outbox.append("event", [event(ROWS + 1)]) == [ROWS + 1]
        assert outbox.pending("event", 1, after_seq=ROWS)[0].spool not in {row.spool for row in rows}
        return len(numbers)


def overwrite_pages(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with path.open("r+b") as file:
        pages = os.fstat(file.fileno()).st_size // 4096
        for page in chance.sample(range(1, pages), 5):
            file.seek(page * 4096)
            file.write(chance.randbytes(4096))


@pytest.mark.parametrize("seed", range(6))
def test_overwritten_pages(tmp_path: Path, seed: int) -> None:
    """Found by the check of the next boot."""
    folder = tmp_path / "outbox"
    written(folder)
    overwrite_pages(folder / "outbox.db", seed)
    assert recovered(folder, "boot-2") > 100
    assert (folder / "outbox.db.corrupt").exists()


@pytest.mark.parametrize("seed", range(4))
def test_overwritten_pages_that_nobody_looks_for(tmp_path: Path, seed: int) -> None:
    """Found where they are used, if they are."""
    folder = tmp_path / "outbox"
    written(folder)
    overwrite_pages(folder / "outbox.db", seed)
    assert recovered(folder) > 100


@disk.on_small_disk(8)
def test_damage_that_there_is_no_room_to_mend(small_disk: Path) -> None:
    folder = small_disk / "outbox"
    with opened(folder) as outbox:
        for first in range(0, 2000, 50):
            outbox.append("event", [event(number) for number in range(first, first + 50)])
    overwrite_pages(folder / "outbox.db", 0)
    disk.fill(small_disk)
    with pytest.raises(OutboxError, match=r"full|No space"):
        opened(folder, "boot-2")
    disk.enlarge(small_disk)
    with opened(folder, "boot-2") as outbox:
        assert kept(outbox, 2000) > 1900


@disk.on_small_disk(8)
def test_damage_while_it_is_open_and_the_disk_is_full(small_disk: Path) -> None:
    folder = small_disk / "outbox"
    with opened(folder) as vision, opened(folder) as uplink:
        for first in range(0, 2000, 50):
            vision.append("event", [event(number) for number in range(first, first + 50)])
        disk.fill(small_disk)
        with pytest.raises(sqlite3.Error):
            vision._stores[0]._recover(sqlite3.DatabaseError("malformed"))
        for outbox in (vision, uplink):
            with pytest.raises(OutboxFullError):
                outbox.append("event", [event(0)])
            with pytest.raises(OutboxError):
                outbox.stats()
        disk.enlarge(small_disk)
        wait_until(lambda: works(vision), 20, "the outbox to be mended")
        wait_until(lambda: works(uplink), 20, "the other process to see it")
        books = balanced(uplink)["event"]
        assert (books["produced"], books["pending"], books["lost"]) == (2002, 2000, 2)
        assert declared(vision) == 2


def works(outbox: Outbox) -> bool:
    try:
        outbox.stats()
    except OutboxError:
        return False
    return True


def kept(outbox: Outbox, produced: int) -> int:
    """How many are there; all others are declared."""
    books = balanced(outbox)["event"]
    assert books["produced"] == produced
    assert declared(outbox) == books["lost"] == produced - books["pending"]
    return int(books["pending"])


def test_a_garbled_header(tmp_path: Path) -> None:
    written(tmp_path)
    with (tmp_path / "outbox.db").open("r+b") as file:
        file.write(b"garbage" * 20)
    assert recovered(tmp_path) == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    written(tmp_path)
    path = tmp_path / "outbox.db"
    os.truncate(path, int(path.stat().st_size * share))
    recovered(tmp_path)


def test_a_deleted_file(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "outbox.db").unlink()
    assert recovered(tmp_path) == 0


@pytest.mark.parametrize("damage", ["garbage", "truncate", "delete"])
def test_a_damaged_log_rolls_back_and_the_mirror_tells(tmp_path: Path, damage: str) -> None:
    folder, copy = tmp_path / "outbox", tmp_path / "copy"
    with opened(folder) as outbox:
        outbox.append("event", [event(number + 1) for number in range(100)])
        outbox.settle("event", outbox.pending("event", 1)[0].spool, upto=100)
    with opened(folder) as outbox:
        for first in range(100, ROWS, 20):
            outbox.append("event", [event(number + 1) for number in range(first, first + 20)])
        copy.mkdir()
        for path in folder.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
    log = copy / "outbox.db-wal"
    size = log.stat().st_size
    if damage == "delete":
        log.unlink()
    elif damage == "truncate":
        os.truncate(log, size // 2)
    else:
        with log.open("r+b") as file:
            file.seek(size // 3)
            file.write(os.urandom(8192))
    (copy / "outbox.db-shm").unlink()
    recovered(copy)


def test_damage_while_it_is_open(tmp_path: Path) -> None:
    written(tmp_path)
    with opened(tmp_path) as vision, opened(tmp_path) as uplink:
        with (tmp_path / "outbox.db").open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            file.write(os.urandom(size))
        vision.append("event", [event(ROWS + 1)])
        uplink.append("audit", [event(1)])
        books = balanced(uplink)
        assert books["event"]["spool"] == balanced(vision)["event"]["spool"]
        assert books["event"]["produced"] == ROWS + 1
        assert books["event"]["alarm"]
        assert [json.loads(row.payload)["data"]["number"] for row in uplink.pending("event", 1000)][-1] == ROWS + 1
        assert declared(uplink) == books["event"]["lost"]


def test_a_damaged_payload_is_declared_not_delivered(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "outbox.db"
    raw = path.read_bytes()
    place = raw.index(b'"number":250,')
    path.write_bytes(raw[:place] + b'"number":950,' + raw[place + 13 :])
    with opened(tmp_path) as outbox:
        numbers = [json.loads(row.payload)["data"]["number"] for row in outbox.pending("event", 1000)]
        assert numbers == [number for number in range(101, ROWS + 1) if number != 250]
        assert balanced(outbox)["event"]["lost"] == declared(outbox) == 1


@pytest.mark.parametrize("slots", ["one", "both", "gone"])
def test_a_damaged_mirror(tmp_path: Path, slots: str) -> None:
    written(tmp_path)
    mirror = tmp_path / "outbox.seq"
    raw = mirror.read_bytes()
    damaged = {"one": raw[:4096] + os.urandom(4096), "both": os.urandom(8192), "gone": b""}[slots]
    mirror.write_bytes(damaged) if damaged else mirror.unlink()
    with opened(tmp_path) as outbox:
        rows = outbox.pending("event", 1000)
        assert [row.seq for row in rows] == list(range(101, ROWS + 1))
        assert outbox.append("event", [event(1)]) == [ROWS + 1]
        assert (outbox.stats()["event"]["spool"] == rows[0].spool) == (slots == "one")
        assert balanced(outbox)["event"]["lost"] == 0


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match="cannot be opened"):
        opened(tmp_path / "file")
