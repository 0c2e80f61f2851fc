"""What keeps a hub's store bounded and honest over years: gaps, refusals, old rows, erasures that an old copy would undo, wrong clocks.

tests/integration/test_hub_postgres.py runs some of it on PostgreSQL.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import delete, insert, text, update

from agent import wire
from agent.errors import UnknownError
from fleet import clock
from fleet.alerts.rules import RULES, Facts
from fleet.api import live
from fleet.api.live import News
from fleet.settings import RetentionSettings
from fleet.store import Batch, Message, Store, care, queries, tables
from fleet.store import store as storing
from fleet.store.backup import backup, restore
from fleet.store.database import alembic, connect, migrate, writing
from fleet.store.erased_list import ErasedList, reconcile
from tests.fakes.hub_store import EVENTS, LOSSES, NOW, SPOOL, StoredHub, loss, message, other

pytestmark = pytest.mark.unit

DAY = 86400.0
OTHER = "ff" * 8


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StoredHub]:
    one = StoredHub(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    yield one
    one.store.close()


def seen(number: int, who: str, **changes: Any) -> bytes:
    """A face event that names somebody."""
    return message(number, data={"identity": who, "name": "Zacharias"}, **changes)


def erasure(number: int, who: str) -> tuple[str, bytes]:
    """What a device says of an erasure."""
    data = {"action": wire.IDENTITY_ERASE, "actor": "device", "outcome": "done", "detail": {"id": who}}
    return other("audit", number, data)


def gaps(hub: StoredHub) -> tuple[int, list[Any]]:
    """How many numbers are missing, and of each spool how many, since when, and which."""
    with hub.store.engine.connect() as connection:
        found = queries.losses(connection, "dev-9")
    return found["missing_total"], [(one["lane"], one["count"], one["since"], one["ranges"]) for one in found["missing"]]


def begins(hub: StoredHub) -> Any:
    """From which number on the hub knows the device's lanes."""
    with hub.store.engine.connect() as connection:
        return queries.losses(connection, "dev-9")["begins"]


def test_a_later_spool_goes_on_counting(hub: StoredHub) -> None:
    hub.write((EVENTS, message(1)), (EVENTS, message(2, id=f"dev-9/{OTHER}/2")))
    assert begins(hub) == {}
    assert hub.sql("SELECT count(*) FROM spools") == [(2,)]


def test_what_is_neither_stored_nor_declared_is_missing(hub: StoredHub) -> None:
    hub.take(EVENTS, message(11), now=NOW)
    assert gaps(hub) == (0, []), "a spool may begin anywhere"
    assert begins(hub) == {"event": 11}, "and that is told"
    hub.take(EVENTS, message(15), now=NOW + 1)
    hub.take(EVENTS, message(20), now=NOW + 5)
    assert gaps(hub) == (7, [("event", 7, NOW + 1, [(12, 14), (16, 19)])])
    hub.take(LOSSES, loss([12, 14], count=3), now=NOW + 8)
    assert gaps(hub) == (4, [("event", 4, NOW + 8, [(16, 19)])]), "another number is the lowest now"
    hub.write(*((EVENTS, message(number)) for number in range(16, 20)), now=NOW + 9)
    assert gaps(hub) == (0, [])
    with hub.store.engine.connect() as connection, pytest.raises(UnknownError):
        queries.losses(connection, "nobody")


@pytest.mark.parametrize(("missing", "waiting", "found"), [(5, 5, 0), (5, 4, 1), (1, None, 1), (0, 0, 0)])
def test_what_waits_in_the_outbox_is_not_missing(missing: int, waiting: float | None, found: int) -> None:
    rule = RULES["missing"]
    figures = {} if waiting is None else {"outbox_depth": waiting}
    facts = Facts("dev-9", "online", figures=figures, missing=missing)
    assert len(list(rule.check(facts, rule.limits, lambda _: False))) == found


def test_a_spool_has_so_many_gaps_and_a_device_so_many_spools(hub: StoredHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "MOST_RANGES", 3)
    monkeypatch.setattr(storing, "MOST_SPOOLS", 2)
    for number in (1, 3, 5):
        hub.take(EVENTS, message(number))
    answer = hub.take(EVENTS, message(9))
    assert answer is not None
    assert [(one.seq, one.reason) for one in answer.refused] == [(9, "the numbers of this spool have 3 gaps already")]
    hub.write((EVENTS, message(6)), (EVENTS, message(2)))
    assert hub.sql("SELECT ranges FROM spools") == [("[[1, 3], [5, 6]]",)]
    hub.take(*other("audit", 1, {"action": "x", "actor": "device", "outcome": "done", "detail": {}}))
    third = hub.take(EVENTS, message(1, id=f"dev-9/{'ab' * 8}/1"))
    assert third is not None
    assert third.refused[0].reason == "this device has 2 spools already"
    hub.take(LOSSES, loss([8, 8], [10, 10], [12, 12], number=2, count=3))
    assert hub.sql(f"SELECT ranges, missing FROM spools WHERE spool = '{SPOOL}'") == [("[[1, 3], [5, 6], [8, 8]]", 2)]
    assert hub.sql("SELECT count(*) FROM dead_letters") == [(2,)]


def test_what_is_old_is_forgotten_quickly(hub: StoredHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(care, "GONE_AT_ONCE", 100)
    for start in range(1, 1000, 250):
        hub.write(*((EVENTS, message(number)) for number in range(start, start + 250)), now=NOW)
    hub.write(other("clock", 1, {"mono_ns": 5, "wall": NOW}, boot_id="c"), now=NOW)
    past, old = {"at": NOW, "expires_at": NOW, "by": "a", "name": "x"}, {"device": "dev-9", "rule": "hot", "since": NOW}
    with writing(hub.store.engine) as connection:
        for state in ("done", "queued"):
            connection.execute(insert(tables.commands).values(id=state, device="dev-9", state=state, **past))
        for state, until in (("resolved", NOW), ("firing", None)):
            connection.execute(insert(tables.alerts).values(state=state, until=until, **old))
        connection.execute(insert(tables.audit).values(at=NOW, actor="a", action="x"))
    caretaker = care.Care(hub.store.engine, RetentionSettings(events_s=DAY, history_s=2 * DAY))
    for _ in range(10):
        caretaker.round(NOW + 4 * DAY)
    left = {name: hub.sql(f"SELECT count(*) FROM {name}")[0][0] for name in ("events", "records", "spools", "clocks", "audit")}
    assert left == dict.fromkeys(left, 0), "ten rounds are enough for ten times what goes at once"
    assert hub.sql("SELECT state FROM commands") == [("queued",)]
    assert hub.sql("SELECT state FROM alerts") == [("firing",)]


def test_what_came_while_the_clock_was_ahead_keeps_nothing_from_being_forgotten(hub: StoredHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(care, "GONE_AT_ONCE", 10)
    hub.write(*((EVENTS, message(number)) for number in range(1, 31)), now=NOW + 400 * DAY)
    hub.write(*((EVENTS, message(number)) for number in range(31, 41)), now=NOW)
    care.Care(hub.store.engine, RetentionSettings(events_s=DAY)).round(NOW + 4 * DAY)
    assert hub.sql("SELECT min(seq), max(seq) FROM events") == [(1, 30)]


def test_a_clock_record_and_an_erasure_look_at_few_rows(hub: StoredHub) -> None:
    """They go by their index, and not through all that is stored of the device."""
    plans = []
    with hub.store.engine.connect() as connection:
        for query in (
            "UPDATE events SET at = 1 WHERE device = ? AND boot_id = ? AND clock = 'unsynced'",
            "SELECT payload FROM events WHERE device = ? AND identity IS NOT NULL AND identity IN (?, '*') AND instr(payload, ?) > 0",
        ):
            values = ("dev-9", "b", b"x")[: query.count("?")]
            plans.append(str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all()))
    assert "events_unsynced (device=? AND boot_id=?)" in plans[0]
    assert "events_identity (device=? AND identity=?)" in plans[1]


def test_a_clock_record_that_says_nothing_new_touches_nothing(hub: StoredHub) -> None:
    reading = {"mono_ns": 10**10, "wall": NOW - 20}
    hub.write((EVENTS, message(1, mono_ns=4 * 10**9, clock="unsynced", captured_at=12.0)), other("clock", 1, reading))
    with writing(hub.store.engine) as connection:
        connection.execute(text("UPDATE events SET at = 7"))
    hub.write(other("clock", 2, {"mono_ns": 2 * 10**10, "wall": NOW - 10}))
    assert hub.sql("SELECT at FROM events") == [(7.0,)]
    hub.write(other("clock", 3, {"mono_ns": 2 * 10**10, "wall": NOW - 60}))
    assert hub.sql("SELECT at FROM events") == [(NOW - 76,)]


def test_who_is_named_within_something_is_erased_too(hub: StoredHub) -> None:
    inside = {"people": [{"identity": "p-1", "name": "Zacharias"}, {"identity": "p-2", "name": "Maria"}]}
    hub.write((EVENTS, message(1, data=inside)), (EVENTS, seen(2, "p-2")), (EVENTS, seen(3, "p-1")), (EVENTS, message(4)))
    assert hub.sql("SELECT seq, identity FROM events ORDER BY seq") == [(1, "*"), (2, "p-2"), (3, "p-1"), (4, None)]
    hub.take(*erasure(1, "p-1"))
    assert hub.sql("SELECT seq, identity FROM events ORDER BY seq") == [(1, "*"), (2, "p-2"), (3, None), (4, None)]
    assert hub.said()[1] == {"people": [{"identity": None, "name": None}, {"identity": "p-2", "name": "Maria"}]}


def test_a_backup_does_not_bring_back_who_was_erased_since(tmp_path: Path) -> None:
    kept = ErasedList(tmp_path / "erased")
    hub = StoredHub(Store(f"sqlite:///{tmp_path / 'hub.sqlite'}", kept))
    hub.write((EVENTS, seen(1, "p-1")), (EVENTS, seen(2, "p-2")))
    backup(hub.store.engine, tmp_path / "b.gz")
    hub.take(*erasure(1, "p-1"))
    hub.store.close()
    assert kept.read() == {("dev-9", "p-1")}
    assert (tmp_path / "erased").stat().st_mode & 0o777 == 0o600
    with (tmp_path / "erased").open("a") as file:
        file.write('["dev-9", "p-')  # the power went
    new = connect(f"sqlite:///{tmp_path / 'new.sqlite'}")
    restore(new, tmp_path / "b.gz")
    assert reconcile(new, kept) == 1
    old = StoredHub(Store(new, kept))
    old.take(EVENTS, seen(3, "p-1"))
    assert {number: data["identity"] for number, data in old.said().items()} == {1: None, 2: "p-2", 3: None}
    old.take(*erasure(2, "p-2"))
    assert kept.read() == {("dev-9", "p-1"), ("dev-9", "p-2")}
    old.store.close()


def test_a_list_of_erasures_that_cannot_be_written_stops_the_batch(tmp_path: Path) -> None:
    hub = StoredHub(Store(f"sqlite:///{tmp_path / 'hub.sqlite'}", ErasedList(tmp_path / "none" / "erased")))
    hub.take(EVENTS, seen(1, "p-1"))
    with pytest.raises(OSError, match="No such file"):
        hub.take(*erasure(1, "p-1"))
    assert hub.sql("SELECT count(*) FROM erased") == [(0,)]
    hub.store.close()


def test_a_hub_in_1970_takes_the_word_of_its_devices(hub: StoredHub) -> None:
    hub.take(EVENTS, message(1, captured_at=NOW), now=1000.0)
    hub.take(EVENTS, message(2, captured_at=12.0, clock="unsynced"), now=1000.0)
    assert hub.sql("SELECT at, received_at FROM events ORDER BY seq") == [(NOW, NOW), (1000.0, 1000.0)]
    care.Care(hub.store.engine).round(NOW + 10)
    assert len(hub.said()) == 2, "a time that means nothing is no age"


def telemetry(device: str, said: float, arrived: float) -> Batch:
    """A sample of a device with a synchronised clock."""
    batch = Batch()
    envelope = message(1, id=f"{device}/{SPOOL}/1", stream="", kind="telemetry", captured_at=said, data={"samples": []})
    batch.take(Message(f"almena/1/{device}/up/telemetry", envelope, arrived))
    assert batch.rows, batch.refused
    return batch


@pytest.mark.parametrize(("off", "word"), [(0.0, ""), (-30.0, ""), (365 * DAY, "behind"), (-365 * DAY, "ahead of")])
def test_devices_tell_that_the_hubs_clock_is_wrong(monkeypatch: pytest.MonkeyPatch, off: float, word: str) -> None:
    monkeypatch.setattr(clock, "kernel_synchronised", lambda: True)
    one = clock.HubClock()
    for number in range(2):
        one.hear(telemetry(f"dev-{number}", NOW + off, NOW).rows)
    one.look(NOW, 0.0)
    assert one.trouble == "", "two are not enough against a kernel that is synchronised"
    one.hear(telemetry("dev-2", NOW - 9 * DAY, NOW).rows)  # out of its outbox
    one.hear(telemetry("dev-2", NOW + off, NOW).rows)
    one.look(NOW + 11, 11.0)
    assert word in one.trouble
    assert bool(one.trouble) is bool(word)


def test_a_clock_that_jumps_is_not_believed_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "kernel_synchronised", lambda: True)
    one = clock.HubClock(newest=NOW)
    one.look(NOW, 0.0)
    assert one.trouble == ""
    one.look(NOW + 7200 + 1, 1.0)
    assert "was set by 7200 s" in one.trouble
    one.look(NOW + 7200 + 100, 100.0)
    assert one.trouble == ""
    one.look(1000.0, 101.0)
    assert "says 1970-01-01" in one.trouble
    fresh = clock.HubClock(newest=NOW)
    fresh.look(NOW - 2 * DAY, 0.0)
    assert "behind what it has stored" in fresh.trouble


def test_live_tells_what_another_hub_has_stored_later_under_a_lower_number(hub: StoredHub) -> None:
    def add(number: int) -> None:
        values = {"id": number, "spool": SPOOL, "seq": number, "device": "dev-9", "stream": "cam", "kind": "count", "at": NOW}
        more = {"captured_at": NOW, "mono_ns": 1, "clock": "synced", "received_at": NOW, "payload": message(number)}
        with writing(hub.store.engine) as connection:
            connection.execute(insert(tables.events).values({**values, **more}))

    add(2000)
    news = News(hub.store.engine)
    assert news.look() == []
    told = []
    for number in (1999, 4500, 2001, 3300, 1000):
        add(number)
        told.append([one["number"] for kind, one in news.look() if kind == "event"])
    assert told == [[1999], [4500], [2001], [3300], [1000]]
    assert news.look() == []


def test_live_tells_of_every_device_of_a_large_fleet(hub: StoredHub) -> None:
    news = News(hub.store.engine)
    names = {f"dev-{number}" for number in range(700)}
    heard = [{"device": name, "state": "online", "seen_at": time.time(), "lease_s": 90.0, "models": {}} for name in names]
    with writing(hub.store.engine) as connection:
        connection.execute(insert(tables.devices), heard)
    assert {one["device"] for kind, one in news.look() if kind == "device"} == names


def test_live_tells_of_a_device_and_an_alert_whose_commit_came_late_and_once(hub: StoredHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WIDELY_EVERY_S", 0.0)
    now = time.time()
    alert = {"device": "dev-9", "rule": "offline", "state": "firing", "since": now - 600, "until": None}
    device = {"device": "dev-9", "state": "online", "seen_at": now - 300, "lease_s": 900.0}
    with writing(hub.store.engine) as connection:
        number = connection.execute(insert(tables.alerts).values(alert)).inserted_primary_key[0]
        connection.execute(insert(tables.devices).values(device))
    news = News(hub.store.engine)
    assert news.look() == []
    with writing(hub.store.engine) as connection:
        connection.execute(update(tables.alerts).values(state="resolved", until=now - 20))
        connection.execute(update(tables.devices).values(seen_at=now - 20))
    told = [(kind, one.get("id"), one["state"]) for kind, one in news.look()]
    assert told == [("alert", number, "resolved"), ("device", None, "online")]
    assert news.look() == []


def test_live_tells_of_what_has_the_number_of_something_that_was_forgotten(hub: StoredHub) -> None:
    """SQLite gives the newest number again."""
    now = time.time()
    alert = {"rule": "offline", "state": "firing", "since": now - 600, "until": None}
    hub.write(*((EVENTS, message(number)) for number in range(1, 6)), now=now - 900)
    with writing(hub.store.engine) as connection:
        connection.execute(insert(tables.alerts), [{**alert, "device": name} for name in ("dev-1", "dev-2")])
    news = News(hub.store.engine)
    assert [one for one in news.look() if one[0] != "device"] == []
    with writing(hub.store.engine) as connection:
        connection.execute(delete(tables.alerts).where(tables.alerts.c.device == "dev-2"))
        connection.execute(insert(tables.alerts).values({**alert, "device": "dev-3"}))
        care.purge(connection, RetentionSettings(events_s=600), now)
    assert [one["device"] for kind, one in news.look() if kind == "alert"] == ["dev-3"]
    for number in (6, 7):
        hub.take(EVENTS, message(number), now=time.time())
        assert [one["number"] for kind, one in news.look() if kind == "event"] == [number - 5]


def test_a_database_of_an_earlier_version_is_brought_here(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    with writing(engine) as connection:
        command.upgrade(alembic(connection), "0002")
    old = "device, spool, seq, stream, kind, at, captured_at, mono_ns, boot_id, clock, received_at, payload"
    with writing(engine) as connection:
        row = ("dev-9", SPOOL, 1, "cam", "count", NOW, NOW, 5, "b", "synced", NOW, seen(1, "p-1"))
        connection.exec_driver_sql(f"INSERT INTO events ({old}) VALUES ({', '.join('?' * 12)})", row)
        for spool, ranges in ((SPOOL, [[1, 1], [5, 6]]), (OTHER, [])):
            connection.exec_driver_sql("INSERT INTO spools (device, spool, ranges) VALUES (?, ?, ?)", ("dev-9", spool, json.dumps(ranges)))
        connection.exec_driver_sql("INSERT INTO devices (device) VALUES ('dev-9')")
    migrate(engine)
    hub = StoredHub(engine)
    assert gaps(hub)[0] == 3
    hub.take(*erasure(1, "p-1"))
    assert hub.said() == {1: {"identity": None, "name": None}}
    hub.store.close()
