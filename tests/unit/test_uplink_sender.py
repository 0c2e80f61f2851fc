"""The sender over a real outbox and a connection that the test plays: what fails, and what must not follow from it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import wire
from agent.backoff import Backoff
from agent.datatypes import Event
from agent.outbox import Outbox, OutboxError
from agent.outbox.ledger import TRIES
from agent.settings import MEBIBYTE, LaneSettings, OutboxSettings
from agent.uplink import sender as sender_module
from agent.uplink.sender import Sender
from agent.uplink.session import Link
from agent.uplink.status import UplinkStatus
from tests.waiting import wait_until

pytestmark = pytest.mark.unit


class Connection:
    """A connection on which the test answers. `sent` holds the numbers of the rows in the order of their publishes."""

    def __init__(self, outbox: Outbox, delivery: str, inflight: int) -> None:
        self.outbox = outbox
        self.status = UplinkStatus()
        self.sent: list[int] = []
        soon = Backoff(0.01, 0.01)
        self.sender = Sender(outbox, "dev-1", delivery, inflight, self.status, lambda *_: None, soon, hub_answers_within_s=60.0)
        self.sender.start()
        self.connected()

    def connected(self) -> None:
        """A (new) connection."""
        self.link = Link(self, "5", 100, 100_000)  # type: ignore[arg-type]
        self.sender.up(self.link)

    def publish(self, _topic: str, payload: bytes, *_: Any) -> Any:
        """As paho does; the packet id is the number of publishes."""
        self.sent.append(int(json.loads(payload)["id"].rpartition("/")[2]))
        return SimpleNamespace(mid=len(self.sent))

    def puback(self, mid: int, reason: int = 0) -> None:
        """The broker's answer to the publish number `mid`."""
        self.sender.acknowledged(self.link, mid, reason)

    def hub_ack(self, **ack: Any) -> None:
        """The hub's word."""
        self.sender.received(wire.TOPICS["ack"].of("dev-1"), wire.encode(wire.Ack(**ack)))

    def sends(self, count: int) -> None:
        """Wait for `count` publishes in all."""
        wait_until(lambda: len(self.sent) >= count, 5, f"{count} publishes")

    def sends_row(self, number: int, after: int) -> None:
        """Wait for a row to be published after so many publishes."""
        wait_until(lambda: number in self.sent[after:], 10, f"row {number}")


Connect = Callable[..., Connection]


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with Outbox.open(tmp_path, "dev-1", OutboxSettings()) as one:
        yield one


@pytest.fixture
def connect(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Makes a sender with a connection; it is stopped at the end."""
    monkeypatch.setattr(sender_module, "WATCH_S", 0.05)
    made: list[Connection] = []

    def make(delivery: str = "broker", inflight: int = 8) -> Connection:
        made.append(Connection(outbox, delivery, inflight))
        return made[-1]

    yield make
    for one in made:
        one.sender.stop()


def add(outbox: Outbox, count: int, **data: Any) -> None:
    outbox.append("event", [Event("cam", "count", data, time.time(), time.monotonic_ns()) for _ in range(count)])


@contextmanager
def failing(outbox: Outbox, method: str) -> Iterator[list[int]]:
    """While it is entered `method` fails; an entry for each time."""
    failures: list[int] = []

    def fail(*_: Any, **__: Any) -> Any:
        failures.append(1)
        raise OutboxError("the disk fails")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox, method, fail)
        yield failures


def left(outbox: Outbox) -> list[int]:
    """Numbers of the events that are not settled."""
    return [row.seq for row in outbox.pending("event", 100)]


def test_a_row_without_a_topic_is_given_up(outbox: Outbox, connect: Connect, tmp_path: Path) -> None:
    add(outbox, 3)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as db, db:
        db.execute("UPDATE rows SET kind = 'No Kind' WHERE seq = 2")
    one = connect()
    wait_until(lambda: one.status.dead_letters == 1, 5, "the row to be given up")
    assert "no topic" in one.status.row_trouble
    assert one.sent[:2] == [1, 3]
    assert outbox.stats()["event"]["lost"] == 1


def test_what_cannot_be_settled_is_not_sent_again(outbox: Outbox, connect: Connect) -> None:
    add(outbox, 4)
    one = connect()
    one.sends(4)
    with failing(outbox, "settle") as failures:
        for mid in (1, 2, 3):
            one.puback(mid)
        add(outbox, 2)
        wait_until(lambda: len(failures) >= 2, 10, "a second try")
        assert one.sent == [1, 2, 3, 4]
    wait_until(lambda: left(outbox) == [4, 5, 6], 10, "the settling")
    one.sends(6)
    assert one.sent == [1, 2, 3, 4, 5, 6]
    assert one.sender.alive(5.0)


def test_a_refusal_that_cannot_be_counted_is_not_the_rows_end(outbox: Outbox, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    add(outbox, 1)
    one = connect()
    one.sends(1)
    settle = outbox.settle

    def failing(*_: Any, **__: Any) -> int:
        monkeypatch.setattr(outbox, "settle", settle)
        raise OutboxError("the disk is full")

    monkeypatch.setattr(outbox, "settle", failing)
    one.puback(1, 0x80)
    one.sends(2)
    one.puback(2)
    wait_until(lambda: left(outbox) == [], 5, "the settling")


def test_a_refused_row_that_is_gone_makes_room(outbox: Outbox, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "WINDOW", 1)
    add(outbox, 2)
    one = connect()
    one.sends(1)
    outbox.settle("event", outbox.stats()["event"]["spool"], upto=1)
    for mid in range(1, 6):
        one.sends(mid)
        one.puback(mid, 0x80)
    one.sends(6)
    assert one.sent == [1, 1, 1, 1, 1, 2]
    assert one.status.dead_letters == 0


def test_places_on_the_wire_stay_taken_when_the_outbox_fails(outbox: Outbox, connect: Connect) -> None:
    add(outbox, 6)
    one = connect(inflight=3)
    one.sends(3)
    with failing(outbox, "pending") as failures:
        add(outbox, 1)
        wait_until(lambda: failures, 5, "a failure")
    rounds = one.sender._last_round
    one.puback(99)
    wait_until(lambda: one.sender._last_round > rounds, 10, "a round that works")
    assert one.sent == [1, 2, 3]
    one.puback(1)
    one.sends(4)
    assert one.sent == [1, 2, 3, 1]


def test_the_hubs_word_settles_only_what_was_sent(outbox: Outbox, connect: Connect) -> None:
    add(outbox, 5)
    one = connect("hub", inflight=2)
    one.sends(2)
    one.hub_ack(spool=outbox.stats()["event"]["spool"], upto=5)
    wait_until(lambda: left(outbox) == [3, 4, 5], 5, "two rows to be settled")


def test_numbers_that_were_never_given_start_a_new_spool(outbox: Outbox, connect: Connect) -> None:
    add(outbox, 3)
    one = connect("hub")
    one.sends(3)
    spool = outbox.stats()["event"]["spool"]
    one.hub_ack(spool=spool, upto=1, ranges=((9, 9),))
    books = wait_until(lambda: (found := outbox.stats()["event"])["spool"] != spool and found, 5, "a new spool")
    assert "the hub has number 9" in books["alarm"]
    assert left(outbox) == [1, 2, 3]
    add(outbox, 1)
    one.sends(4)
    one.hub_ack(spool=books["spool"], ranges=((4, 4),))
    wait_until(lambda: left(outbox) == [1, 2, 3], 5, "the new event to be settled")


def test_a_spool_stays_doubtful_over_a_restart(outbox: Outbox, connect: Connect) -> None:
    add(outbox, 3)
    one = connect("hub")
    one.sends(3)
    spool = outbox.stats()["event"]["spool"]
    one.hub_ack(spool=spool, upto=9)
    wait_until(lambda: outbox.doubtful() == {spool}, 5, "the mark")
    one.sender.stop()
    two = connect("hub")
    two.sends(3)
    add(outbox, 1)
    two.sends(4)
    two.hub_ack(spool=spool, upto=9)
    two.hub_ack(spool=outbox.stats()["event"]["spool"], ranges=((4, 4),))
    wait_until(lambda: left(outbox) == [1, 2, 3], 5, "the new event alone to be settled")


def test_a_row_that_ends_every_connection_is_given_up_if_others_get_through(outbox: Outbox, connect: Connect) -> None:
    add(outbox, 1, padding="x" * 20_000)
    add(outbox, 1)
    one = connect()
    one.sends(2)
    one.sender.down(one.link)  # nothing got through: no row is to blame yet
    for number in range(TRIES):
        sent = len(one.sent)
        one.connected()
        one.sends_row(2 + number, sent)
        one.puback(one.sent.index(2 + number, sent) + 1)
        add(outbox, 1)
        one.sends_row(1, sent)
        one.sender.down(one.link)
    wait_until(lambda: one.status.dead_letters == 1, 5, "the large row to be given up")
    assert one.status.refused == TRIES
    assert outbox.stats()["event"]["lost"] == 1


def test_no_row_is_to_blame_that_was_taken_or_is_small(outbox: Outbox, connect: Connect) -> None:
    add(outbox, 1, padding="x" * 20_000)
    add(outbox, 1, padding="x" * 10_000)
    add(outbox, 1)
    one = connect("hub")
    one.sends(3)
    one.puback(1)
    for number in range(TRIES + 1):
        one.sender.down(one.link)
        sent = len(one.sent)
        one.connected()
        for row in (1, 2, 3 + number):
            one.sends_row(row, sent)
        one.puback(one.sent.index(3 + number, sent) + 1)
        add(outbox, 1)
    assert one.status.refused == 0
    assert outbox.stats()["event"]["lost"] == 0


def test_reading_ahead_is_bounded_by_bytes(outbox: Outbox, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(4):
        add(outbox, 50, padding="x" * 90_000)
    asked: list[int] = []
    pending = outbox.pending

    def counted(lane: str, limit: int, after_seq: int = 0) -> Any:
        rows = pending(lane, limit, after_seq)
        asked.extend(len(row.payload) for row in rows)
        return rows

    monkeypatch.setattr(outbox, "pending", counted)
    one = connect(inflight=2)
    one.sends(2)
    rounds = one.sender._last_round
    one.puback(99)
    wait_until(lambda: one.sender._last_round > rounds, 10, "another round")
    assert sum(asked) < 14_000_000


@pytest.mark.parametrize("delivery", ["broker", "hub"])
def test_a_row_that_was_evicted_on_its_way_is_lost_and_no_acknowledgement_settles_it_too(tmp_path: Path, delivery: str) -> None:
    limits = OutboxSettings(event=LaneSettings(max_bytes=MEBIBYTE))
    with Outbox.open(tmp_path, "dev-1", limits) as outbox:
        add(outbox, 4, padding="x" * 90_000)
        one = Connection(outbox, delivery, inflight=4)
        try:
            one.sends(4)
            add(outbox, 11, padding="x" * 90_000)
            books = outbox.stats()["event"]
            assert (books["lost"], books["pending"]) == (4, 11)
            answered = 0

            def settled() -> bool:
                nonlocal answered
                while answered < len(one.sent):
                    answered += 1
                    one.puback(answered)
                if delivery == "hub":
                    one.hub_ack(spool=books["spool"], upto=max(one.sent))
                return outbox.stats()["event"]["pending"] == 0

            wait_until(settled, 30, "the rows that were left to be settled")
            found = outbox.stats()["event"]
            assert (found["produced"], found["settled"], found["lost"]) == (15, 11, 4)
            assert one.sent[:4] == [1, 2, 3, 4]
        finally:
            one.sender.stop()
