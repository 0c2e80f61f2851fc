"""The outbox: lanes, books, caps, keys, history."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import wire
from agent.datatypes import Event
from agent.outbox import LANES, Outbox, OutboxError, OutboxFullError
from agent.settings import DAY, MEBIBYTE, AuditLaneSettings, LaneSettings, OutboxSettings
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.unit

Opener = Callable[..., Outbox]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def opened(tmp_path: Path, clock: FakeClock) -> Iterator[Opener]:
    """Opens the outbox of the test, as often as it likes."""
    made = []

    def opener(**settings: Any) -> Outbox:
        made.append(Outbox.open(tmp_path / "outbox", "dev", OutboxSettings(**settings), clock))
        return made[-1]

    yield opener
    for outbox in made:
        balanced(outbox)
        outbox.close()


def event(number: int = 0, *, pad: int = 0, key: str | None = None, at: float = 1.0, **data: Any) -> Event:
    return Event("cam", "count", {"number": number, "pad": "x" * pad, **data}, at, 1, key=key)


def balanced(outbox: Outbox) -> dict[str, dict[str, Any]]:
    stats = outbox.stats()
    for lane, books in stats.items():
        assert books["produced"] == books["settled"] + books["lost"] + books["pending"], (lane, books)
        assert min(books["bytes"], books["history_bytes"]) >= 0
        assert bool(books["bytes"]) == bool(books["pending"])
    return stats


def numbers(outbox: Outbox, lane: str = "event") -> list[int]:
    return [json.loads(row.payload)["data"]["number"] for row in outbox.pending(lane, 100_000)]


def loss_records(outbox: Outbox) -> list[dict[str, Any]]:
    return [wire.decode_event(row.payload).data for row in outbox.pending("loss", 1000)]


def settle_all(outbox: Outbox, lane: str) -> int:
    return sum(outbox.settle(row.lane, row.spool, ranges=[(row.seq, row.seq)]) for row in outbox.pending(lane, 100_000))


def test_rows_come_back_in_order_as_valid_envelopes(opened: Opener) -> None:
    outbox = opened()
    assert outbox.append("event", [event(1), event(2)]) == [1, 2]
    assert outbox.append("event", [event(3)]) == [3]
    rows = outbox.pending("event", 2)
    assert [row.seq for row in rows] == [1, 2]
    assert [row.seq for row in outbox.pending("event", 10, after_seq=2)] == [3]
    envelope = wire.decode_event(rows[0].payload)
    assert envelope.id == f"dev/{rows[0].spool}/1"
    assert (rows[0].stream, rows[0].kind, envelope.clock, envelope.boot_id) == ("cam", "count", "synced", "boot-1")
    assert balanced(outbox)["event"]["pending"] == 3


@pytest.mark.parametrize("lane", [lane for lane in LANES if lane != "loss"])
def test_every_lane_has_its_own_spool_and_numbers(opened: Opener, lane: str) -> None:
    outbox = opened()
    assert outbox.append(lane, [event(5)]) == [1]
    row = outbox.pending(lane, 10)[0]
    assert row.spool == outbox.stats()[lane]["spool"]
    assert len({books["spool"] for books in outbox.stats().values()}) == len(LANES)
    assert outbox.settle(lane, row.spool, upto=1) == 1
    assert outbox.pending(lane, 10) == []
    assert balanced(outbox)[lane]["settled"] == 1


def test_settling_takes_ranges_and_is_idempotent(opened: Opener) -> None:
    outbox = opened()
    outbox.append("event", [event(number) for number in range(1, 11)])
    spool = outbox.pending("event", 1)[0].spool
    assert outbox.settle("event", spool, upto=3, ranges=[(5, 6), (9, 9)]) == 6
    assert outbox.settle("event", spool, upto=3, ranges=[(5, 6), (9, 9)]) == 0
    assert outbox.settle("event", "0" * 16, upto=10) == 0
    assert outbox.settle("event", spool) == 0
    assert numbers(outbox) == [4, 7, 8, 10]


def test_an_unknown_lane_is_an_error(opened: Opener) -> None:
    outbox = opened()
    with pytest.raises(OutboxError, match="event, audit"):
        outbox.append("events", [event()])
    with pytest.raises(OutboxError, match="event, audit"):
        outbox.settle("events", "0" * 16, upto=1)


def test_a_row_refused_five_times_is_dead_and_declared(opened: Opener) -> None:
    outbox = opened()
    outbox.append("event", [event(1), event(2)])
    spool = outbox.pending("event", 1)[0].spool
    for _ in range(4):
        assert outbox.settle("event", spool, upto=1, refused=[(1, "schema: data")]) == 0
    assert numbers(outbox) == [1, 2]
    assert outbox.settle("event", spool, refused=[(1, "schema: data")]) == 1
    assert numbers(outbox) == [2]
    books = balanced(outbox)["event"]
    assert (books["dead"], books["lost"]) == (1, 1)
    (record,) = loss_records(outbox)
    assert (record["reason"], record["count"], record["ranges"]) == ("refused: schema: data", 1, [[1, 1]])


def test_reasons_of_refusals_cannot_pile_up(opened: Opener) -> None:
    outbox = opened()
    outbox.append("event", [event(number) for number in range(200)])
    spool = outbox.pending("event", 1)[0].spool
    for _ in range(5):
        outbox.settle("event", spool, refused=[(seq, f"reason {seq} " + "x" * 1000) for seq in range(1, 201)])
    records = loss_records(outbox)
    assert len(records) <= 51
    assert sum(record["count"] for record in records) == 200
    assert max(len(record["reason"]) for record in records) <= 80


def test_a_full_lane_drops_the_oldest_and_says_so(opened: Opener) -> None:
    outbox = opened(event=LaneSettings(max_bytes=MEBIBYTE))
    for first in range(0, 2000, 100):
        outbox.append("event", [event(number, pad=1000) for number in range(first, first + 100)])
    books = balanced(outbox)["event"]
    assert books["bytes"] <= MEBIBYTE
    assert books["produced"] == 2000
    kept = numbers(outbox)
    assert kept == list(range(2000 - len(kept), 2000))
    (record,) = loss_records(outbox)
    assert record == {
        "lane": "event", "spool": books["spool"], "reason": "evicted", "count": 2000 - len(kept), "ranges": [[1, 2000 - len(kept)]],
        "since": 1_700_000_000.0, "until": 1_700_000_000.0,
    }  # fmt: skip


def test_other_limits_hold_from_the_next_append_on(opened: Opener) -> None:
    outbox = opened()
    outbox.append("event", [event(number, pad=250_000) for number in range(8)])
    assert balanced(outbox)["event"]["lost"] == 0
    outbox.limit(OutboxSettings(event=LaneSettings(max_bytes=MEBIBYTE)))
    outbox.append("event", [event(8)])
    assert 4 <= balanced(outbox)["event"]["lost"] < 8


def test_a_frozen_loss_record_is_not_changed_and_its_successor_waits(opened: Opener) -> None:
    outbox = opened(event=LaneSettings(max_bytes=MEBIBYTE))
    for number in range(3):
        outbox.append("event", [event(number, pad=250_000) for _ in range(4)])
        outbox.pending("loss", 10)
    first = outbox.pending("loss", 10)
    outbox.append("event", [event(9, pad=250_000) for _ in range(4)])
    assert outbox.pending("loss", 10) == first
    assert outbox.settle("loss", first[0].spool, upto=first[0].seq) == 1
    (second,) = loss_records(outbox)
    assert wire.decode_event(first[0].payload).data["count"] + second["count"] == balanced(outbox)["event"]["lost"] == 12


def test_settled_rows_go_before_unsettled_ones_and_are_no_loss(opened: Opener) -> None:
    outbox = opened(event=LaneSettings(max_bytes=MEBIBYTE), history_bytes=100_000)
    for number in range(60):
        outbox.append("event", [event(number, pad=10_000)])
        settle_all(outbox, "event")
    stats = balanced(outbox)
    assert stats["event"]["lost"] == 0
    assert 0 < stats["event"]["history_bytes"] <= 100_000
    assert [row["data"]["number"] for row in outbox.history(limit=2)] == [59, 58]
    assert outbox.pending("loss", 10) == []


def test_a_full_audit_lane_refuses_and_counts(opened: Opener) -> None:
    outbox = opened(audit=AuditLaneSettings(max_bytes=MEBIBYTE))
    for number in range(5):
        outbox.append("audit", [event(number, pad=200_000)])
    with pytest.raises(OutboxFullError, match="audit"):
        outbox.append("audit", [event(6, pad=200_000)])
    books = balanced(outbox)["audit"]
    assert (books["pending"], books["lost"]) == (5, 1)
    assert [(record["lane"], record["reason"], record["count"]) for record in loss_records(outbox)] == [("audit", "lane full", 1)]
    settle_all(outbox, "audit")
    outbox.append("audit", [event(11, pad=200_000)])


def test_old_rows_expire_by_age_not_by_wall_clock(opened: Opener, clock: FakeClock) -> None:
    outbox = opened(event=LaneSettings(max_age_s=DAY), history_age_s=DAY)
    outbox.append("event", [event(1)])
    clock.wall_s += 900 * DAY
    assert maintained(opened) == []
    clock.pass_time(DAY / 2)
    outbox.append("event", [event(2)])
    clock.pass_time(DAY / 2 + 1)
    assert [(record["reason"], record["ranges"]) for record in maintained(opened)] == [("expired", [[1, 1]])]
    clock.reboot("boot-2")
    clock.wall_s += DAY
    assert numbers(outbox) == [2]
    records = maintained(opened)
    assert numbers(outbox) == []
    assert sum(record["count"] for record in records) == 1, "the second record waits behind the first"


def maintained(opened: Opener) -> list[dict[str, Any]]:
    """Loss records after an age check, which each newly opened outbox does at once."""
    return loss_records(opened(event=LaneSettings(max_age_s=DAY), history_age_s=DAY))


def test_rows_of_a_boot_whose_clock_was_never_set_do_not_expire(opened: Opener, clock: FakeClock) -> None:
    clock.synced, clock.wall_s = False, 1000.0
    outbox = opened(event=LaneSettings(max_age_s=DAY))
    outbox.append("event", [event(1)])
    clock.reboot("boot-2")
    clock.synced, clock.wall_s = True, 1_700_000_000.0
    assert maintained(opened) == []
    assert numbers(outbox) == [1]


def test_settled_rows_are_forgotten_by_age(opened: Opener, clock: FakeClock) -> None:
    outbox = opened(history_age_s=DAY)
    outbox.append("event", [event(1)])
    settle_all(outbox, "event")
    clock.pass_time(DAY + 1)
    assert len(outbox.history()) == 1
    maintained(opened)
    assert outbox.history() == []
    assert balanced(outbox)["event"]["settled"] == 1


def test_the_same_key_is_stored_once_and_told(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "agent.outbox")
    outbox = opened(history_bytes=0)
    assert outbox.append("event", [event(1, key="a"), event(1, key="a"), event(2)]) == [1, 1, 2]
    assert "cam: the same was stored before, as count event 1, and is not stored again" in caplog.messages
    assert outbox.append("event", [event(1, key="a"), event(3, key="b")]) == [1, 3]
    settle_all(outbox, "event")
    assert outbox.history() == []
    assert opened(history_bytes=0).append("event", [event(1, key="a")]) == [1]
    assert outbox.append("audit", [event(1, key="a")]) == [1]
    assert balanced(outbox)["event"]["produced"] == 3


def test_an_event_without_a_valid_form_is_declared_and_the_rest_is_stored(opened: Opener) -> None:
    outbox = opened()
    batch = [event(1), event(2, bad=object()), event(3, pad=wire.MAX_PAYLOAD), event(4, bad=float("nan")), event(5)]
    assert outbox.append("event", batch) == [1, 2, 3, 4, 5]
    assert numbers(outbox) == [1, 5]
    assert balanced(outbox)["event"]["lost"] == 3
    assert sorted(span for record in loss_records(outbox) for span in record["ranges"]) == [[2, 2], [3, 3], [4, 4]]


@pytest.mark.parametrize(("stream", "kind"), [("", "face"), ("cam", ""), ("cam", "Face"), ("a/b", "face"), ("+", "face")])
def test_an_event_that_no_topic_can_carry_is_declared(opened: Opener, stream: str, kind: str) -> None:
    outbox = opened()
    assert outbox.append("event", [event(1), Event(stream, kind, {}, 1.0, 1), event(3)]) == [1, 2, 3]
    assert numbers(outbox) == [1, 3]
    (record,) = loss_records(outbox)
    assert (record["reason"][:6], record["ranges"]) == ("unfit:", [[2, 2]])


def test_history_is_filtered_and_ordered(opened: Opener) -> None:
    outbox = opened()
    outbox.append("event", [event(number, at=float(number)) for number in range(10)])
    outbox.append("event", [Event("door", "stream", {"number": 99}, 4.5, 1)])
    settle_all(outbox, "event")
    found = lambda **filters: [row["data"]["number"] for row in outbox.history(**filters)]  # noqa: E731
    assert found(limit=3) == [9, 8, 7]
    assert found(since=3, until=6, newest_first=False) == [3, 4, 99, 5]
    assert found(stream="door") == found(kind="stream") == [99]


def test_erasing_an_identity_blanks_it_everywhere(opened: Opener, tmp_path: Path) -> None:
    outbox = opened()
    known = {"identity": "i1", "name": "Zacharias"}
    outbox.append("event", [event(1, **known), event(2, **known), event(3, identity="i2", name="Else"), event(4, note="i1")])
    spool = outbox.pending("event", 1)[0].spool
    outbox.settle("event", spool, upto=1)
    outbox.append("audit", [event(5, detail={"identity": "i1", "name": "Zacharias"})])
    assert outbox.erase("i1") == 3
    assert outbox.erase("i1") == 0
    rows = outbox.pending("event", 10)
    assert [row.seq for row in rows] == [2, 3, 4]
    assert [row["data"].get("name", "-") for row in outbox.history(newest_first=False)] == [None, None, "Else", "-"]
    for path in (tmp_path / "outbox").iterdir():
        assert b"Zacharias" not in path.read_bytes(), path


def test_doubt_lasts_until_nothing_of_the_spool_is_pending(opened: Opener) -> None:
    outbox = opened()
    assert outbox.doubtful() == frozenset()
    outbox.append("event", [event(1)])
    spool = outbox.stats()["event"]["spool"]
    outbox.start_spool("event", "the hub knows better")
    assert opened().doubtful() == {spool}
    settle_all(outbox, "event")
    other = opened()
    other.pending("loss", 1)  # which does what is due from time to time
    assert other.doubtful() == frozenset()


def test_two_outboxes_on_one_folder_see_each_other(opened: Opener) -> None:
    vision, uplink = opened(), opened()
    while uplink.wait(0):
        pass
    vision.append("event", [event(1)])
    assert uplink.wait(0)
    assert numbers(uplink) == [1]
    settle_all(uplink, "event")
    assert numbers(vision) == []
    assert balanced(vision) == balanced(uplink)


def test_waiting_ends_with_an_append_of_another_thread(opened: Opener) -> None:
    outbox = opened()
    while outbox.wait(0):
        pass
    thread = threading.Timer(0.05, lambda: outbox.append("event", [event(1)]))
    thread.start()
    assert outbox.wait(60)
    thread.join()


def test_threads_share_commits_and_lose_nothing(opened: Opener) -> None:
    outbox = opened()
    taken: list[int] = []

    def work(first: int) -> None:
        for number in range(first, first + 50):
            taken.extend(outbox.append("event", [event(number)]))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 401))
    assert sorted(numbers(outbox)) == list(range(400))


def test_numbers_go_on_after_a_restart(opened: Opener) -> None:
    first = opened()
    first.append("event", [event(1)])
    first.append("telemetry", [event(1)])
    second = opened()
    assert second.append("event", [event(2)]) == [2]
    assert len({row.spool for row in second.pending("event", 10)}) == 1


def test_telemetry_starts_a_new_spool_with_each_boot(opened: Opener, clock: FakeClock) -> None:
    first = opened()
    first.append("telemetry", [event(1)])
    clock.reboot("boot-2")
    second = opened()
    assert second.append("telemetry", [event(2)]) == [2]
    rows = second.pending("telemetry", 10)
    assert [row.seq for row in rows] == [1, 2]
    assert len({row.spool for row in rows}) == 2
    assert second.settle("telemetry", rows[0].spool, upto=2) == 1
