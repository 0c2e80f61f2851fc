"""The outbox under two processes, restored copies, races and wide umasks."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.datatypes import Event
from agent.outbox import Outbox, OutboxError, guard, recovery, schema
from agent.outbox.store import Store
from agent.settings import DAY, OutboxSettings
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.unit


def event(number: int, **data: Any) -> Event:
    return Event("cam", "count", {"number": number, **data}, 1.0, 1)


def opened(folder: Path, clock: FakeClock | None = None, **settings: Any) -> Outbox:
    return Outbox.open(folder, "dev", OutboxSettings(**settings), clock or FakeClock())


def main_store(outbox: Outbox) -> Store:
    return outbox._stores[0]


def numbers(outbox: Outbox) -> list[int]:
    return [json.loads(row.payload)["data"]["number"] for row in outbox.pending("event", 1000)]


def loss_records(outbox: Outbox) -> list[dict[str, Any]]:
    return [json.loads(row.payload)["data"] for row in outbox.pending("loss", 1000)]


def test_nothing_is_written_into_a_file_that_was_replaced_at_the_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as vision, opened(tmp_path) as uplink:
        store = main_store(uplink)
        shared = store._gate.shared
        damage = [sqlite3.DatabaseError("malformed")]

        @contextmanager
        def delayed() -> Iterator[None]:
            if damage:
                main_store(vision)._recover(damage.pop())
            with shared():
                yield

        monkeypatch.setattr(store._gate, "shared", delayed)
        assert uplink.append("event", [event(1)]) == [1]
        assert numbers(vision) == [1]


@pytest.mark.parametrize("done", ["set aside", "half set aside", "half saved", "saved but not said so"])
def test_what_was_set_aside_is_saved_at_the_next_start(tmp_path: Path, done: str) -> None:
    path, copy = tmp_path / "outbox.db", tmp_path / "copy"
    with opened(tmp_path) as outbox:
        outbox.append("event", [event(number, pad="x" * 1000, track="t") for number in range(1, 201)])
        outbox.settle("event", outbox.stats()["event"]["spool"], upto=50)
        copy.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", copy)
    shutil.copytree(copy, tmp_path, dirs_exist_ok=True)
    if done == "half set aside":
        (tmp_path / "outbox.db.unsaved").mkdir()
        Path(f"{path}-wal").replace(tmp_path / "outbox.db.unsaved" / "outbox.db-wal")
    else:
        recovery.set_aside(path)
    if done.startswith("half saved"):
        new = schema.connect(path, "NORMAL")
        schema.prepare(new)
        new.close()
    if done.startswith("saved"):
        saved = tmp_path / "saved"
        shutil.copytree(tmp_path / "outbox.db.unsaved", saved)
        opened(tmp_path).close()
        shutil.rmtree(tmp_path / "outbox.db.corrupt")
        saved.rename(tmp_path / "outbox.db.unsaved")
    with opened(tmp_path) as outbox:
        assert numbers(outbox) == list(range(51, 201))
        books = outbox.stats()["event"]
        assert (books["produced"], books["settled"], books["lost"]) == (200, 50, 0)
        assert loss_records(outbox) == []
        assert len(outbox.history(limit=1000)) == 200
        assert [one["id"].rpartition("/")[2] for one in outbox.open_tracks()] == ["200"]
    assert (tmp_path / "outbox.db.corrupt").exists()
    assert not (tmp_path / "outbox.db.unsaved").exists()


def test_every_boot_starts_new_spools(tmp_path: Path) -> None:
    clock = FakeClock()
    with opened(tmp_path / "live", clock) as outbox:
        outbox.append("event", [event(1)])
    shutil.copytree(tmp_path / "live", tmp_path / "image")
    with opened(tmp_path / "live", clock) as outbox:
        outbox.append("event", [event(2)])
        used = {(row.spool, row.seq) for row in outbox.pending("event", 10)}
    clock.reboot("boot-2")
    with opened(tmp_path / "image", clock) as outbox:
        assert outbox.append("event", [event(3)]) == [2]
        row = outbox.pending("event", 10)[-1]
        assert (row.spool, row.seq) not in used


def test_a_new_spool_can_be_asked_for_and_raises_an_alarm(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        before = {lane: books["spool"] for lane, books in outbox.stats().items()}
        outbox.append("event", [event(1)])
        outbox.start_spool("event", "the hub has acknowledged 500")
        outbox.append("event", [event(2)])
        first, second = outbox.pending("event", 10)
        assert (first.spool, first.seq, second.seq) == (before["event"], 1, 2)
        assert second.spool != first.spool
        stats = outbox.stats()
        assert "acknowledged 500" in stats["event"]["alarm"]
        assert stats["audit"]["spool"] == before["audit"]
        with pytest.raises(OutboxError, match="no lane"):
            outbox.start_spool("events", "")


def test_losses_are_declared_under_the_spool_of_their_numbers(tmp_path: Path) -> None:
    with opened(tmp_path) as outbox:
        spools = []
        for first in (1, 4, 7):
            outbox.append("event", [event(first + step) for step in range(3)])
            spools.append(outbox.stats()["event"]["spool"])
            outbox.start_spool("event", "")
    with sqlite3.connect(tmp_path / "outbox.db") as connection:
        connection.execute("DELETE FROM rows WHERE seq IN (2, 3, 5, 7, 8)")
    connection.close()
    with opened(tmp_path) as outbox:
        main_store(outbox)._recover(sqlite3.DatabaseError("malformed"))
        assert numbers(outbox) == [1, 4, 6, 9]
        declared = {record["spool"]: record["ranges"] for record in loss_records(outbox)}
        assert declared == {spools[0]: [[2, 3]], spools[1]: [[5, 5]], spools[2]: [[7, 8]]}


@pytest.mark.parametrize("error", [sqlite3.OperationalError("unable to open database file"), OSError(5, "Input/output error")])
def test_every_call_raises_the_error_of_the_outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: object) -> None:
        raise error

    with opened(tmp_path) as outbox:
        monkeypatch.setattr(main_store(outbox), "_read_once", fails)
        monkeypatch.setattr(main_store(outbox), "_write_once", fails)
        monkeypatch.setattr(main_store(outbox)._mirror, "version", fails)
        calls: list[Callable[[], object]] = [
            lambda: outbox.pending("event", 1), outbox.history, outbox.stats, lambda: outbox.wait(0), lambda: outbox.erase("i1"),
            lambda: outbox.append("event", [event(1)]), lambda: outbox.settle("event", "0" * 16, upto=1),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(OutboxError):
                call()


def test_two_processes_make_the_reserve_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = guard.Reserve(tmp_path / "reserve"), guard.Reserve(tmp_path / "reserve")
    allocate = os.posix_fallocate

    def interrupted(fd: int, start: int, size: int) -> None:
        monkeypatch.setattr(os, "posix_fallocate", allocate)
        other.ensure()
        allocate(fd, start, size)

    monkeypatch.setattr(os, "posix_fallocate", interrupted)
    one.ensure()
    assert [path.name for path in tmp_path.iterdir()] == ["reserve"]
    assert (tmp_path / "reserve").stat().st_size == guard.RESERVE_BYTES


def test_the_file_is_checked_through_once_per_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[sqlite3.Connection] = []
    monkeypatch.setattr(schema, "check", checked.append)
    clock = FakeClock()
    for boot, checks in (("boot-1", 0), ("boot-1", 0), ("boot-2", 2), ("boot-2", 2), ("boot-3", 4)):
        clock.reboot(boot)
        opened(tmp_path, clock).close()
        assert len(checked) == checks, "two files; new ones need no check"


def test_a_row_that_is_purged_during_an_erasure_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as outbox:
        outbox.append("event", [event(number, identity="i1", name="Zacharias") for number in range(3)])
        store = main_store(outbox)
        read = store.read

        def purging(work: Any) -> Any:
            found = read(work)
            store.write(lambda ledger: ledger._db.execute("DELETE FROM rows WHERE seq = 2"))
            return found

        monkeypatch.setattr(store, "read", purging)
        assert outbox.erase("i1") == 2
        monkeypatch.undo()
        assert [row["data"]["name"] for row in outbox.history()] == [None, None]


def test_only_owner_and_group_can_read_whatever_the_umask_is(tmp_path: Path) -> None:
    for umask in (0, 0o077):
        folder = tmp_path / f"{umask}"
        before = os.umask(umask)
        try:
            with opened(folder) as outbox:
                outbox.append("event", [event(1)])
                main_store(outbox)._recover(sqlite3.DatabaseError("malformed"))
                modes = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
                assert stat.S_IMODE(folder.stat().st_mode) == 0o770
                assert len(modes) >= 10
                assert {path: mode for path, mode in modes.items() if mode != (0o770 if path.is_dir() else 0o660)} == {}
        finally:
            os.umask(before)


def test_a_folder_goes_on_to_hand_down_its_group(tmp_path: Path) -> None:
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox").chmod(0o2770)
    with opened(tmp_path / "outbox"):
        assert stat.S_IMODE((tmp_path / "outbox").stat().st_mode) == 0o2770


def test_what_was_set_aside_is_deleted_by_age_and_by_erasure(tmp_path: Path) -> None:
    aside = tmp_path / "outbox.db.corrupt"
    clock = FakeClock()
    with opened(tmp_path, clock, history_age_s=DAY) as outbox:
        main_store(outbox)._recover(sqlite3.DatabaseError("malformed"))
        os.utime(aside, (clock.wall_s, clock.wall_s))
        outbox.pending("loss", 1)
        assert aside.exists()
    clock.pass_time(DAY + 1)
    with opened(tmp_path, clock, history_age_s=DAY) as outbox:
        outbox.pending("loss", 1)
        assert not aside.exists()
        main_store(outbox)._recover(sqlite3.DatabaseError("malformed"))
        assert aside.exists()
        outbox.erase("i1")
        assert not aside.exists()


def test_what_root_makes_belongs_to_whom_the_folder_does(tmp_path: Path) -> None:
    """Commands that run as root beside the service must not lock it out."""
    folder = tmp_path / "outbox"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 12345, 54321)
    guard.make_private(folder / "outbox.db")
    made = (folder / "outbox.db").stat()
    assert (made.st_uid, made.st_gid) == (folder.stat().st_uid, folder.stat().st_gid)
    assert stat.S_IMODE(made.st_mode) == 0o660


@pytest.mark.parametrize("name", ["outbox.db", "outbox.db-wal", "outbox.lock", "outbox.seq", "telemetry.lock"])
def test_a_link_among_the_files_is_not_followed(tmp_path: Path, name: str) -> None:
    """One service could have another, or root, open or change any file."""
    folder, theirs = tmp_path / "outbox", tmp_path / "theirs"
    folder.mkdir()
    theirs.write_text("theirs")
    theirs.chmod(0o640)
    (folder / name).symlink_to(theirs)
    with pytest.raises(OutboxError, match="no link is followed"):
        Outbox.open(folder, "dev", OutboxSettings())
    assert (theirs.read_text(), stat.S_IMODE(theirs.stat().st_mode)) == ("theirs", 0o640)


def test_a_folder_that_is_a_link_is_one_of_root_or_of_whoever_opens_it(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "outbox"
    elsewhere.mkdir(mode=0o755)
    folder.symlink_to(elsewhere)
    Outbox.open(folder, "dev", OutboxSettings()).close()
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o770
    if os.geteuid() == 0:
        elsewhere.chmod(0o755)
        os.chown(folder, 12345, 54321, follow_symlinks=False)
        with pytest.raises(OutboxError, match="link of somebody else"):
            Outbox.open(folder, "dev", OutboxSettings())
        assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755
