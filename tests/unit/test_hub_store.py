"""The hub's store: hostile numbers, numbers that are used twice, and what it forgets."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent import wire
from fleet import store as store_module
from fleet.ingest import Batch
from fleet.intervals import Intervals
from fleet.store import Store

pytestmark = pytest.mark.unit

SPOOL = "00112233445566aa"
EVENTS = "almena/1/dev-9/up/event/cam/count"
LOSSES = "almena/1/dev-9/up/loss"


class Hub:
    """A store with its file, fed in batches of one message."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = Store(path)

    def take(self, topic: str, payload: bytes, now: float = 1.7e9) -> wire.Ack | None:
        """What the device is told."""
        batch = Batch(self.store)
        self.store.begin()
        batch.take(topic, payload, now)
        self.store.commit()
        acks = batch.acks()
        return acks[0][1] if acks else None

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query over another connection."""
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute(query).fetchall()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    one = Hub(tmp_path / "hub.sqlite")
    yield one
    one.store.close()


def seen(number: int, who: str, device: str = "dev-9", **changes: Any) -> bytes:
    """A face event that names somebody."""
    data = {"identity": who, "name": "Zacharias", "decision": "known"}
    return message(number, id=f"{device}/{SPOOL}/{number}", data=data, **changes)


def erased(number: int, who: str, outcome: str = "done") -> bytes:
    """What a device says of an erasure."""
    data = {"action": "identity erase", "actor": "device", "outcome": outcome, "detail": {"id": who}}
    return message(number, stream="", kind="audit", data=data)


def test_who_is_erased_on_a_device_is_erased_here_too(hub: Hub) -> None:
    audit = "almena/1/dev-9/up/audit"
    hub.take(EVENTS, seen(1, "p-1"))
    hub.take(EVENTS, seen(2, "p-2"))
    hub.take("almena/1/dev-8/up/event/cam/count", seen(1, "p-1", "dev-8"))
    hub.take(EVENTS, seen(3, "p-1", stream="attic"))  # a dead letter
    hub.take(audit, erased(4, "p-1", "accepted"))
    assert len(hub.sql("SELECT 1 FROM rows WHERE instr(payload, 'Zacharias')")) == 3
    hub.take(audit, erased(5, "p-1"))
    names = (
        "SELECT device, seq, payload ->> '$.data.name', payload ->> '$.data.identity' FROM rows WHERE lane = 'event' ORDER BY device, seq"
    )
    assert hub.sql(names) == [("dev-8", 1, "Zacharias", "p-1"), ("dev-9", 1, None, None), ("dev-9", 2, "Zacharias", "p-2")]
    assert hub.sql("SELECT length(payload) FROM dead_letters") == [(0,)]
    hub.take(EVENTS, seen(6, "p-1"))  # was under way
    hub.take(EVENTS, seen(1, "p-1"))  # comes again
    assert hub.sql("SELECT count(*) FROM rows WHERE device = 'dev-9' AND instr(payload, 'Zacharias')") == [(1,)]
    hub.take(audit, erased(7, "p-2"))
    hub.take("almena/1/dev-8/up/audit", erased(8, "p-1").replace(b"dev-9", b"dev-8"))
    for path in hub.path.parent.iterdir():
        assert b"Zacharias" not in path.read_bytes(), path


def message(number: int | str, **changes: Any) -> bytes:
    """A row as a device sends it."""
    envelope = {
        "v": 1, "id": f"dev-9/{SPOOL}/{number}", "stream": "cam", "kind": "count", "captured_at": 1.7e9, "mono_ns": 5, "boot_id": "b",
        "clock": "synced", "model": "", "host": "h", "data": {"n": 1}, **changes,
    }  # fmt: skip
    return json.dumps(envelope).encode()


def loss(*ranges: list[int]) -> bytes:
    """A loss record."""
    data = {"lane": "event", "spool": SPOOL, "reason": "evicted", "count": 1, "ranges": ranges, "since": 1.7e9, "until": 1.7e9}
    return message(1, id=f"dev-9/{'f' * 16}/1", stream="", kind="loss", data=data)


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (EVENTS, message(10**20)),
        (EVENTS, message("9" * 5000)),
        (EVENTS, message(1, mono_ns=10**30)),
        (LOSSES, loss([1, 10**20])),
        (LOSSES, loss([3, 4], [9, 2])),
    ],
)
def test_impossible_numbers_are_dead_letters(hub: Hub, topic: str, payload: bytes) -> None:
    hub.take(EVENTS, message(5))
    hub.take(topic, payload)
    assert hub.sql("SELECT topic, times FROM dead_letters") == [(topic, 1)]
    assert hub.sql("SELECT seq FROM rows") == [(5,)]
    assert list(hub.store.ranges("dev-9", SPOOL)) == [(5, 5)]


def test_a_repeat_is_stored_but_another_message_under_the_number_is_refused(hub: Hub) -> None:
    assert hub.take(EVENTS, message(1)) == hub.take(EVENTS, message(1, data={"n": None})) == wire.Ack(spool=SPOOL, upto=1)
    for changes in ({"mono_ns": 6}, {"boot_id": "c"}):
        answer = hub.take(EVENTS, message(1, **changes))
        assert answer is not None
        assert answer.refused[0].seq == 1
        assert "rolled back" in answer.refused[0].reason
    assert hub.sql("SELECT payload FROM rows") == [(message(1),)]


def test_ranges_that_are_none_are_not_taken_in() -> None:
    intervals = Intervals([(1, 3)])
    for low, high in ((9, 2), (0, 4), (1, 1 << 63)):
        with pytest.raises(ValueError, match="no range"):
            intervals.add(low, high)
    assert list(intervals) == [(1, 3)]


def test_dead_letters_and_replies_are_bounded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "KEPT_BYTES", 10_000)
    for number in range(20):
        hub.take(EVENTS, bytes([number]) * 1000, now=1000.0 + number)
        hub.take(f"almena/1/dev-9/up/reply/r{number}", wire.encode(wire.Reply(id="r", ok=True, detail="x" * 1000)), now=1000.0 + number)
    hub.store.begin()
    hub.store.purge(1020.0)
    hub.store.commit()
    assert hub.sql("SELECT COUNT(*), MAX(last_at) FROM dead_letters") == [(7, 1019.0)]
    assert hub.sql("SELECT COUNT(*), MAX(received_at) FROM replies") == [(7, 1019.0)]
    hub.store.begin()
    hub.store.purge(1019.5 + store_module.KEPT_S)
    hub.store.commit()
    assert hub.sql("SELECT (SELECT COUNT(*) FROM dead_letters) + (SELECT COUNT(*) FROM replies)") == [(0,)]


def test_spools_of_long_ago_leave_the_memory_but_not_the_store(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "KNOWN_SPOOLS", 5)
    for boot in range(10):
        hub.take(EVENTS, message(1, id=f"dev-9/{boot:016x}/1"))
        hub.take(EVENTS, message(1))
    assert len(hub.store._known) <= 6
    assert ("dev-9", SPOOL) in hub.store._known
    assert hub.take(EVENTS, message(2, id=f"dev-9/{3:016x}/2")) == wire.Ack(spool=f"{3:016x}", upto=2)
