"""The hub's store: hostile numbers, numbers that are used twice, times, losses, and what it forgets.

tests/integration/test_hub_postgres.py runs the same on PostgreSQL.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from agent import wire
from fleet.ingest.ingest import POISON
from fleet.intervals import Intervals
from fleet.settings import RetentionSettings
from fleet.store import Batch, Message, care, pictures, queries, rows, sql, tables
from fleet.store.database import LOCK_WAIT_S, writing
from fleet.store.pictures import TooLateError
from tests.fakes.hub_store import EVENTS, LOSSES, NOW, SPOOL, StoredHub, loss, message, other

pytestmark = pytest.mark.unit

AUDIT = "almena/1/dev-9/up/audit"
STATUS = "almena/1/dev-9/status"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[StoredHub]:
    one = StoredHub(f"sqlite:///{tmp_path / 'hub.sqlite'}")
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


def names(hub: StoredHub, device: str = "dev-9") -> dict[int, Any]:
    """By number, who is named."""
    return {number: (data.get("name"), data.get("identity")) for number, data in hub.said(device).items()}


def test_who_is_erased_on_a_device_is_erased_here_too(hub: StoredHub) -> None:
    hub.take(EVENTS, seen(1, "p-1"))
    hub.take(EVENTS, seen(2, "p-2"))
    hub.take("almena/1/dev-8/up/event/cam/count", seen(1, "p-1", "dev-8"))
    hub.take(EVENTS, seen(3, "p-1", stream="attic"))  # a dead letter
    hub.take(AUDIT, erased(4, "p-1", "accepted"))
    known = ("Zacharias", "p-1")
    assert names(hub) == {1: known, 2: ("Zacharias", "p-2")}
    hub.write((EVENTS, seen(7, "p-1")), (AUDIT, erased(5, "p-1")), (EVENTS, seen(8, "p-1")))
    nobody = (None, None)
    assert names(hub) == {1: nobody, 2: ("Zacharias", "p-2"), 7: nobody, 8: nobody}
    assert names(hub, "dev-8") == {1: known}
    assert hub.sql("SELECT length(payload) FROM dead_letters") == [(0,)]
    hub.take(EVENTS, seen(6, "p-1"))  # was under way
    hub.take(EVENTS, seen(1, "p-1"))  # comes again
    assert names(hub) == {1: nobody, 2: ("Zacharias", "p-2"), 6: nobody, 7: nobody, 8: nobody}


def test_pictures_of_a_visit_go_with_the_person_however_late_they_and_their_events_come(hub: StoredHub) -> None:
    hub.take(EVENTS, message(1, data={"track": "t-1"}))
    with writing(hub.store.engine) as connection:
        pictures.keep(connection, "dev-9", SPOOL, 1, b"jpeg", NOW)
    hub.take(AUDIT, erased(2, "p-1"))
    assert hub.sql("SELECT seq FROM pictures") == [(1,)], "nobody knows yet whose visit it is"
    known = {"track": "t-1", "identity": "p-1", "name": "Zacharias", "decision": "known"}
    hub.take(EVENTS, message(3, data=known))  # was under way
    assert hub.sql("SELECT seq FROM pictures") == []
    with writing(hub.store.engine) as connection, pytest.raises(TooLateError, match="erased"):
        pictures.keep(connection, "dev-9", SPOOL, 1, b"jpeg", NOW)


def test_nothing_of_who_is_erased_is_left_in_the_files(hub: StoredHub, tmp_path: Path) -> None:
    face = {
        "type": "new", "track": "t", "box": [0, 0, 1, 1], "score": 1, "started_at": NOW, "ended_at": None, "identity": "p-1",
        "name": "Zacharias", "decision": "known", "distance": 0.1, "threshold": 0.4, "second_best": None, "cluster": None, "frames": 1,
        "reason": None,
    }  # fmt: skip
    hub.take("almena/1/dev-9/up/event/cam/face", message(1, kind="face", data=face))
    assert hub.sql("SELECT subject FROM events") == [("Zacharias",)]
    hub.take(EVENTS, seen(2, "p-1"))
    hub.take(EVENTS, seen(3, "p-1", stream="attic"))
    hub.take(AUDIT, erased(4, "p-1"))
    assert hub.sql("SELECT subject FROM events") == [("",), ("",)]
    for path in tmp_path.iterdir():
        assert b"Zacharias" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (EVENTS, message(10**20)),
        (EVENTS, message("9" * 5000)),
        (EVENTS, message(1, mono_ns=10**30)),
        (LOSSES, loss([1, 10**20])),
        (LOSSES, loss([3, 4], [9, 2])),
        other("telemetry", 1, {"samples": [{"at": NOW, "system": {"cpu_percent": float("nan")}}]}),
        other("telemetry", 1, {"samples": [{"at": -1e30, "system": {"cpu_percent": 1}}]}),
        other("clock", 1, {"mono_ns": 5, "wall": -1e30}),
        (EVENTS, message(1, captured_at=1e30)),
        (LOSSES, loss(count=10**4299)),
        (EVENTS, message(1).replace(b'{"n": 1}', b'{"n": 1e999}')),
        ("almena/1/dev-9/up/reported", b'{"v": 1, "revision": 9223372036854775808, "state": {}}'),
        ("almena/1/dev-9/up/reported", b'{"v": 1, "state": {"n": [1e999]}}'),
        ("almena/1/dev-9/up/reply/c-1", b'{"v": 1, "id": "c-1", "ok": true, "result": -1e999}'),
    ],
)
def test_impossible_numbers_are_dead_letters(hub: StoredHub, topic: str, payload: bytes) -> None:
    hub.write((EVENTS, message(5)), (topic, payload))
    assert hub.sql("SELECT topic, times FROM dead_letters") == [(topic, 1)]
    assert hub.sql("SELECT seq FROM events") == [(5,)]
    assert hub.sql("SELECT ranges FROM spools") == [("[[5, 5]]",)]


@pytest.mark.parametrize("bad", [{"seq": 1}, {"seq": 2**70}, {"seq": None}, {"device": "\ud800"}], ids=str)
def test_a_row_that_the_database_cannot_take_is_told_as_such_and_takes_the_others_with_it(hub: StoredHub, bad: dict[str, Any]) -> None:
    good = dict.fromkeys(rows.EVENT, "x") | {"captured_at": 1.0, "mono_ns": 5, "received_at": 1.0, "payload": b"{}", "at": 1.0, "seq": 1}
    with pytest.raises(POISON), writing(hub.store.engine) as connection:
        sql.add(connection, tables.events, rows.EVENT, [tuple(one.values()) for one in (good, {**good, "seq": 2, **bad})])
    assert hub.sql("SELECT count(*) FROM events") == [(0,)]
    with writing(hub.store.engine) as connection:
        sql.add(connection, tables.events, rows.EVENT, [tuple(good.values())])
    assert hub.sql("SELECT device, seq, payload FROM events") == [("x", 1, b"{}")]


def test_rows_are_found_by_whole_keys(hub: StoredHub) -> None:
    erased, device = tables.erased, "d" * 64
    columns = (erased.c.device, erased.c.identity)
    with writing(hub.store.engine) as connection:
        connection.execute(insert(erased).values(device=device, identity="p-1"))
        for keys, found in (([("d", "p-1"), (device, "p-1")], 1), ([(f"{device}d", "p-1"), (device, "p-2")], 0), ([], 0)):
            assert len(list(sql.where(connection, select(*columns), columns, keys))) == found


def test_texts_that_a_database_cannot_index_are_cut(hub: StoredHub) -> None:
    hub.take(EVENTS, message(1, boot_id="\0" + "b" * 100_000, model="\0m", clock="unsynced", data={"type": "\0" * 1000}))
    assert hub.take(EVENTS, message(1, boot_id="\0" + "b" * 100_000, clock="unsynced")) == wire.Ack(spool=SPOOL, upto=1)
    assert hub.sql("SELECT boot_id, model, length(type) FROM events") == [("\ufffd" + "b" * 63, "\ufffdm", 64)]
    hub.take(STATUS, birth(session="\0" * 1000, agent="\0"))
    assert hub.sql("SELECT session, agent FROM devices") == [("\ufffd" * 64, "\ufffd")]


def test_a_repeat_is_stored_but_another_message_under_the_number_is_refused(hub: StoredHub) -> None:
    assert hub.take(EVENTS, message(1)) == hub.take(EVENTS, message(1, data={"n": None})) == wire.Ack(spool=SPOOL, upto=1)
    for changes in ({"mono_ns": 6}, {"boot_id": "c"}):
        answer = hub.take(EVENTS, message(1, **changes))
        assert answer is not None
        assert answer.refused[0].seq == 1
        assert "rolled back" in answer.refused[0].reason
    assert hub.sql("SELECT payload FROM events") == [(message(1),)]
    ((_, together),) = hub.write((EVENTS, message(2)), (EVENTS, message(2)), (EVENTS, message(2, mono_ns=7)))
    assert (together.upto, [refusal.seq for refusal in together.refused]) == (2, [2])
    assert hub.sql("SELECT seq, mono_ns FROM events ORDER BY seq") == [(1, 5), (2, 5)]


def test_losses_count_once_and_not_what_comes_all_the_same(hub: StoredHub) -> None:
    hub.take(EVENTS, message(1))
    hub.take(LOSSES, loss([1, 4], count=6))  # 1 is here; 2 to 4, and two that never got a number
    hub.take(LOSSES, loss([1, 4], count=6))
    hub.take(LOSSES, loss([3, 5], count=3, number=2))
    assert hub.sql("SELECT losses FROM devices") == [(6,)]
    assert hub.take(EVENTS, message(3)) == wire.Ack(spool=SPOOL, upto=5)
    assert hub.take(EVENTS, message(3)) == wire.Ack(spool=SPOOL, upto=5)
    assert hub.sql("SELECT losses FROM devices") == [(5,)]
    assert sorted(hub.said()) == [1, 3]
    hub.take(LOSSES, loss([1, 2**62], count=2**60, number=3))
    assert hub.sql("SELECT losses FROM devices") == [(5 + 10**12,)]


def test_times_of_a_clock_that_was_wrong_are_corrected(hub: StoredHub) -> None:
    early = {"clock": "unsynced", "captured_at": 12.0}
    hub.take(EVENTS, message(1, mono_ns=4 * 10**9, **early), now=NOW)
    hub.take(EVENTS, message(2, mono_ns=4 * 10**9, **early | {"boot_id": "another"}), now=NOW)
    hub.take(EVENTS, message(3, captured_at=NOW + 1e7), now=NOW)
    assert hub.sql("SELECT at FROM events ORDER BY seq") == [(NOW,)] * 3
    hub.write(other("clock", 1, {"mono_ns": 10 * 10**9, "wall": NOW - 20}), (EVENTS, message(4, mono_ns=5 * 10**9, **early)))
    assert hub.sql("SELECT at FROM events ORDER BY seq") == [(NOW - 26,), (NOW,), (NOW,), (NOW - 25,)]
    assert hub.sql("SELECT DISTINCT captured_at FROM events WHERE clock = 'unsynced'") == [(12.0,)]


def birth(session: str = "s", **changes: Any) -> bytes:
    """A birth."""
    said = {"v": 1, "state": "online", "session": session, "boot_id": "b", "agent": "1", "models": {}, "lease_s": 90, **changes}
    return json.dumps(said).encode()


def will(session: str) -> bytes:
    """A will."""
    return json.dumps({"v": 1, "state": "offline", "session": session, "reason": "lost"}).encode()


def presence(hub: StoredHub, now: float) -> str:
    """How the device is."""
    with hub.store.engine.connect() as connection:
        return str(queries.device_list(connection, now, queries.DeviceFilter())[0][0]["state"])


def test_a_lease_ends_and_any_word_begins_it_again(hub: StoredHub) -> None:
    hub.take(STATUS, birth(), now=NOW)
    assert [presence(hub, NOW + after) for after in (89, 91, 181)] == ["online", "stale", "offline"]
    hub.take(EVENTS, message(1), now=NOW + 200)
    assert presence(hub, NOW + 289) == "online"
    kept = Batch()
    kept.take(Message(STATUS, birth(), NOW + 400, retained=True))
    hub.store.write(kept)
    assert presence(hub, NOW + 401) == "offline", "what the broker has kept is no sign of life"
    hub.take(STATUS, birth("t"), now=NOW + 500)
    hub.take(STATUS, will("s"), now=NOW + 501)
    assert presence(hub, NOW + 502) == "online"
    hub.take(STATUS, will("t"), now=NOW + 503)
    assert presence(hub, NOW + 504) == "offline"
    assert hub.sql("SELECT seen_at, status_at FROM devices") == [(NOW + 500, NOW + 503)]
    hub.take(STATUS, birth("u", lease_s=1e15), now=NOW + 600)
    assert "lease_s" in hub.sql("SELECT reason FROM dead_letters")[0][0], "a device would be online for ever"


def sample(at: float, percent: float) -> dict[str, Any]:
    """One of telemetry."""
    return {"at": at, "period_s": 30, "system": {"cpu_percent": percent, "disk": {"free_bytes": 7}}, "vision": {"streams": "none"}}


def test_telemetry_becomes_minutes_and_hours(hub: StoredHub) -> None:
    hour = NOW // 3600 * 3600
    first = other("telemetry", 1, {"samples": [sample(hour + 5, 10), sample(hour + 35, 30)]}, captured_at=hour + 35)
    hub.write(first, now=hour + 40)
    hub.write(first, other("telemetry", 2, {"samples": [sample(hour + 65, 50)]}, captured_at=hour + 65), now=hour + 70)
    assert hub.sql("SELECT count(*), min(at), max(at) FROM samples") == [(3, hour + 5, hour + 65)]
    ((newest,),) = hub.sql("SELECT figures FROM devices")
    assert (newest if isinstance(newest, dict) else json.loads(newest)) == {"cpu_percent": 50, "disk_free_bytes": 7}
    caretaker = care.Care(hub.store.engine, RetentionSettings(samples_s=3600))
    caretaker.round(hour + 1000)
    query = "SELECT step, bucket, n, low, high, sum FROM rollups WHERE metric = 'cpu_percent' ORDER BY step, bucket"
    rolled = [(60, hour, 2, 10.0, 30.0, 40.0), (60, hour + 60, 1, 50.0, 50.0, 50.0), (3600, hour, 3, 10.0, 50.0, 90.0)]
    assert hub.sql(query) == rolled
    care.Care(hub.store.engine, RetentionSettings(samples_s=3600, minutes_s=86400)).round(hour + 86400 + 30)
    assert hub.sql("SELECT count(*) FROM samples") == [(0,)]
    assert hub.sql(query) == rolled[1:]


def test_a_sample_out_of_all_time_and_a_name_that_is_none_are_rolled_up_too(hub: StoredHub, caplog: pytest.LogCaptureFixture) -> None:
    streams = [{"stream": "\0cam", "state": "running", "processed_per_second": 3.0}]
    hub.write(other("telemetry", 1, {"samples": [{"at": NOW - 1, "vision": {"streams": streams}}]}))
    with writing(hub.store.engine) as connection:  # as an earlier version stored it
        connection.execute(tables.samples.insert().values(device="dev-9", at=-1e30, figures={"cpu_percent": 1.0}))
    care.Care(hub.store.engine).round(NOW + 1000)
    assert caplog.text == ""
    assert hub.sql("SELECT metric FROM rollups WHERE step = 3600") == [("fps.\ufffdcam",)]
    assert hub.sql("SELECT at FROM samples") == [(NOW - 1,)]  # the other one is rolled up, and too old


def test_care_that_fails_is_told_once_and_forgetting_goes_on(
    hub: StoredHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_connection: Any, now: float) -> int:
        raise OverflowError("too large to convert")

    monkeypatch.setattr(care, "roll_up", fails)
    monkeypatch.setattr(care, "ROLL_EVERY_S", -1.0)
    hub.take(EVENTS, message(1))
    caretaker = care.Care(hub.store.engine, RetentionSettings(events_s=3600))
    caretaker.round(NOW + 4000)
    caretaker.round(NOW + 4000)
    assert hub.sql("SELECT count(*) FROM events") == [(0,)]
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["too large to convert"]


def test_who_reads_for_long_does_not_hold_up_what_comes_in(hub: StoredHub, tmp_path: Path) -> None:
    hub.take(EVENTS, message(1))
    with hub.store.engine.connect() as reader:
        reader.execute(select(tables.events)).all()
        began = time.monotonic()
        hub.take(EVENTS, seen(2, "p-1"))
        hub.take(AUDIT, erased(3, "p-1"))
        assert time.monotonic() - began < LOCK_WAIT_S / 2
    hub.take(EVENTS, message(4))
    assert (tmp_path / "hub.sqlite-wal").stat().st_size == 0


def test_events_are_kept_as_long_as_the_settings_say_since_they_came(hub: StoredHub) -> None:
    hub.take(EVENTS, message(1), now=NOW)
    hub.take(EVENTS, message(2), now=NOW + 50)
    care.Care(hub.store.engine, RetentionSettings(events_s=100)).round(NOW + 120)
    assert sorted(hub.said()) == [2]
    assert hub.take(EVENTS, message(1), now=NOW + 130) == wire.Ack(spool=SPOOL, upto=2)
    assert sorted(hub.said()) == [2], "what was stored once is not stored again"


def test_dead_letters_and_replies_are_bounded(hub: StoredHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(care, "KEPT_BYTES", 10_000)
    for number in range(20):
        hub.take(EVENTS, bytes([number]) * 1000, now=1000.0 + number)
        hub.take(f"almena/1/dev-9/up/reply/r{number}", wire.encode(wire.Reply(id="r", ok=True, detail="x" * 1000)), now=1000.0 + number)
    care.Care(hub.store.engine).round(1020.0)
    assert hub.sql("SELECT COUNT(*), MAX(last_at) FROM dead_letters") == [(7, 1019.0)]
    assert hub.sql("SELECT COUNT(*), MAX(received_at) FROM replies") == [(7, 1019.0)]
    care.Care(hub.store.engine).round(1019.5 + RetentionSettings().refused_s)
    assert hub.sql("SELECT (SELECT COUNT(*) FROM dead_letters) + (SELECT COUNT(*) FROM replies)") == [(0,)]


def test_ranges_that_are_none_are_not_taken_in() -> None:
    intervals = Intervals([(1, 3)])
    for low, high in ((9, 2), (0, 4), (1, 1 << 63)):
        with pytest.raises(ValueError, match="no range"):
            intervals.add(low, high)
    assert list(intervals) == [(1, 3)]


def test_intervals_with_holes() -> None:
    intervals = Intervals([(2, 4), (8, 9)])
    assert list(intervals.gaps(1, 10)) == [(1, 1), (5, 7), (10, 10)]
    assert list(intervals.gaps(3, 8)) == [(5, 7)]
    assert list(intervals.gaps(2, 4)) == []
    assert (intervals.highest, intervals.count) == (9, 5)
    for number in (3, 8, 100):
        intervals.remove(number)
    assert list(intervals) == [(2, 2), (4, 4), (9, 9)]
