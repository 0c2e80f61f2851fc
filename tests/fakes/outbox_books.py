"""Random operations on the outbox, restarts and restored backups among them: the books balance after each, and tell the truth."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.datatypes import Event
from agent.outbox import Outbox, OutboxFullError
from agent.settings import MEBIBYTE, AuditLaneSettings, LaneSettings, OutboxSettings
from tests.fakes.clock import FakeClock

AGE_S = 1000.0
SETTINGS = OutboxSettings(
    event=LaneSettings(max_bytes=MEBIBYTE, max_age_s=AGE_S),
    audit=AuditLaneSettings(max_bytes=MEBIBYTE),
    telemetry=LaneSettings(max_bytes=MEBIBYTE, max_age_s=AGE_S),
    history_bytes=100_000,
    history_age_s=AGE_S,
)
LANES = ("event", "audit", "telemetry", "clock")
MEMORY = Path("/dev/shm")


class Books(RuleBasedStateMachine):
    """A hub that keeps ids, and a producer that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.live = self.folder / "outbox"
        self.backup = self.folder / "backup"
        self.outbox = self.open()
        self.produced = dict.fromkeys(LANES, 0)
        self.stored: dict[str, set[str]] = {lane: set() for lane in LANES}
        self.appended: dict[str, set[int]] = {lane: set() for lane in LANES}
        self.lost: dict[str, set[int]] = {lane: set() for lane in LANES}
        self.lost_unnumbered = dict.fromkeys(LANES, 0)
        self.boots = 1

    def open(self) -> Outbox:
        return Outbox.open(self.live, "dev", SETTINGS, self.clock)

    def teardown(self) -> None:
        """The hub takes what there is, and can account for every number (a lost loss record is declared anew without its numbers)."""
        for _ in range(10):
            self.deliver_losses()
        assert self.outbox.pending("loss", 1) == []
        for lane in LANES:
            pending = {row.seq for row in self.outbox.pending(lane, 10_000)}
            stored = {int(one.split("/")[2]) for one in self.stored[lane]}
            unseen = self.appended[lane] - stored - pending - self.lost[lane]
            assert len(unseen) <= self.lost_unnumbered[lane], (lane, unseen)
        self.outbox.close()
        shutil.rmtree(self.folder)

    @rule(lane=st.sampled_from(LANES), count=st.integers(1, 20), pad=st.sampled_from([0, 100, 60_000, 240_000]))
    def append(self, lane: str, count: int, pad: int) -> None:
        events = [Event("cam", "count", {"pad": "x" * pad}, self.clock.wall(), 1) for _ in range(count)]
        self.produced[lane] += count
        try:
            numbers = self.outbox.append(lane, events)
        except OutboxFullError:
            assert lane == "audit"
        else:
            assert len(set(numbers)) == count
            assert not self.appended[lane] & set(numbers)
            self.appended[lane] |= set(numbers)

    @rule(lane=st.sampled_from(LANES), key=st.sampled_from("abc"))
    def append_keyed(self, lane: str, key: str) -> None:
        before = self.outbox.stats()[lane]["produced"]
        self.outbox.append(lane, [Event("cam", "count", {}, 1.0, 1, key=key)]) if lane != "audit" else None
        self.produced[lane] += self.outbox.stats()[lane]["produced"] - before

    @rule(lane=st.sampled_from(LANES), choice=st.randoms(use_true_random=False))
    def deliver(self, lane: str, choice: st.DataObject) -> None:
        rows = self.outbox.pending(lane, 50)
        chosen = choice.sample(rows, len(rows) // 2 + len(rows) % 2)  # type: ignore[attr-defined]
        self.stored[lane] |= {json.loads(row.payload)["id"] for row in chosen}
        for spool in {row.spool for row in chosen}:
            self.outbox.settle(lane, spool, ranges=[(row.seq, row.seq) for row in chosen if row.spool == spool])

    @rule(lane=st.sampled_from(LANES))
    def refuse(self, lane: str) -> None:
        for row in self.outbox.pending(lane, 2):
            self.outbox.settle(lane, row.spool, refused=[(row.seq, "schema")] * 3)

    @rule()
    def deliver_losses(self) -> None:
        for row in self.outbox.pending("loss", 100):
            data = json.loads(row.payload)["data"]
            numbers = {number for first, last in data["ranges"] for number in range(first, last + 1)}
            self.lost[data["lane"]] |= numbers
            self.lost_unnumbered[data["lane"]] += data["count"] - len(numbers)
            self.outbox.settle("loss", row.spool, ranges=[(row.seq, row.seq)])

    @rule(seconds=st.sampled_from([1.0, AGE_S / 2, AGE_S * 2]))
    def pass_time(self, seconds: float) -> None:
        self.clock.pass_time(seconds)

    @rule(step=st.sampled_from([-1e6, 1e6]), synced=st.booleans())
    def step_clock(self, step: float, synced: bool) -> None:
        self.clock.wall_s += step
        self.clock.synced = synced

    @rule()
    def restart(self) -> None:
        self.outbox.close()
        self.outbox = self.open()

    @rule()
    def restart_after_crash(self) -> None:
        """The files as they are on the disk while the process is still in the middle of its work."""
        copy = self.folder / "crashed"
        shutil.copytree(self.live, copy)
        self.outbox.close()
        shutil.rmtree(self.live)
        copy.rename(self.live)
        self.outbox = self.open()

    @rule()
    def reboot(self) -> None:
        self.boots += 1
        self.outbox.close()
        self.clock.reboot(f"boot-{self.boots}")
        self.outbox = self.open()

    @rule()
    def second_process_repairs(self) -> None:
        """Somebody else finds the file damaged, and replaces it, while this one has it open."""
        self.live.joinpath("outbox.db-wal").write_bytes(b"")
        self.live.joinpath("outbox.db").write_bytes(b"garbage" * 1000)
        self.open().close()

    @rule()
    def lose_database(self) -> None:
        self.outbox.close()
        self.delete_databases("outbox.db")
        self.outbox = self.open()

    def delete_databases(self, name: str) -> None:
        for suffix in ("", "-wal", "-shm"):
            for path in self.live.glob(name + suffix):
                path.unlink()

    @rule()
    def make_backup(self) -> None:
        self.outbox.close()
        shutil.rmtree(self.backup, ignore_errors=True)
        self.backup.mkdir()
        for path in self.live.glob("*.db"):
            shutil.copy(path, self.backup)
        self.outbox = self.open()

    @precondition(lambda self: self.backup.exists())
    @rule()
    def restore_backup(self) -> None:
        self.outbox.close()
        self.delete_databases("*.db")
        for path in self.backup.iterdir():
            shutil.copy(path, self.live)
        self.outbox = self.open()

    @invariant()
    def books_balance(self) -> None:
        stats = self.outbox.stats()
        for lane in LANES:
            books = stats[lane]
            assert books["produced"] == books["settled"] + books["lost"] + books["pending"], (lane, books)
            assert books["produced"] == self.produced[lane], (lane, books)
            assert books["pending"] == len(self.outbox.pending(lane, 10_000)), (lane, books)
