"""From the outbox to the hub's store over a real mosquitto: everything exactly once, or declared as lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.uplink.app import Uplink
from tests.fakes.fleet import DEVICE, VERSIONS, Hub, Peer, Producer, event, load, peer, stored_once, write_settings
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.uplinks import uplink
from tests.waiting import wait_until

ACK = f"almena/1/{DEVICE}/down/ack"
EVENTS = f"almena/1/{DEVICE}/up/event/#"


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """MQTT 5 and 3.1.1."""
    return str(request.param)


@pytest.fixture
def producers() -> Iterator[list[Producer]]:
    """Producers put here are closed at the end."""
    made: list[Producer] = []
    yield made
    for producer in made:
        producer.close()


@contextmanager
def heard(folder: Path, version: str, delivery: str) -> Iterator[tuple[Peer, Uplink]]:
    """A peer that hears the events at the broker, and the uplink that sends them."""
    with (
        Mosquitto(folder / "broker") as broker,
        peer(broker.port, EVENTS, version=version) as observer,
        uplink(write_settings(folder, broker.port, version=version, delivery=delivery)) as one,
    ):
        yield observer, one


def test_hub_delivery_stores_each_event_once(tmp_path: Path, version: str, producers: list[Producer]) -> None:
    with Mosquitto(tmp_path / "broker") as broker, Hub(tmp_path, broker.port, version) as hub:
        with uplink(write_settings(tmp_path, broker.port, version=version, delivery="hub")) as one:
            producers.append(Producer(one.settings))
            producers[0].add(500)
            stored_once(hub, producers[0])
            wait_until(lambda: one.status.hub == "online", 5, "the hub's state")
            wait_until(lambda: one.status.settled >= 500, 5, "the uplink to have counted the acknowledgements")
            assert one.outbox.stats()["event"]["settled"] == 500
            assert one.status.refused == 0
        assert wait_until(lambda: hub.sql("SELECT state FROM devices WHERE state = 'stopped'"), 5, "the goodbye in the store")


def test_broker_delivery_settles_on_the_brokers_word(tmp_path: Path, version: str, producers: list[Producer]) -> None:
    with heard(tmp_path, version, "broker") as (observer, one):
        producers.append(Producer(one.settings))
        producers[0].add(200)
        wait_until(lambda: producers[0].pending() == 0, 10, "every event to be settled")
        wait_until(lambda: len(observer.heard) >= 200, 10, "every event at the subscriber")
        assert sorted(each.data["data"]["n"] for each in observer.heard) == list(range(200))
        assert {each.topic for each in observer.heard} == {f"almena/1/{DEVICE}/up/event/cam/count"}
        assert not one.status.no_subscribers


def test_what_waits_for_the_hub_is_sent_without_a_name_that_was_erased(tmp_path: Path, version: str, producers: list[Producer]) -> None:
    with heard(tmp_path, version, "hub") as (observer, one):
        producers.append(Producer(one.settings))
        outbox = producers[0].outbox
        outbox.append("event", [event(1, identity="p-1", name="Zacharias"), event(2, identity="p-2", name="Yolanda")])
        named = lambda: [each.data["data"]["name"] for each in observer.heard]  # noqa: E731
        wait_until(lambda: named().count("Zacharias") >= 2, 10, "the row to be sent again, as no hub answers")
        assert outbox.erase("p-1") == 1
        wait_until(lambda: named().count(None) >= 1, 10, "the row to be sent without the name")
        before = named().count("Zacharias")
        wait_until(lambda: named().count(None) >= 3, 15, "the row to be sent without the name, again and again")
        assert named().count("Zacharias") == before
        assert "Yolanda" in named()[-3:]


def test_no_subscriber_is_shown(tmp_path: Path, producers: list[Producer]) -> None:
    with Mosquitto(tmp_path / "broker") as broker, uplink(write_settings(tmp_path, broker.port, version="5", delivery="broker")) as one:
        producers.append(Producer(one.settings))
        producers[0].add(1)
        wait_until(lambda: one.status.no_subscribers, 10, "the warning")
        assert "Nobody has subscribed" in one.status.text
        with peer(broker.port, "almena/1/+/up/#"):
            producers[0].add(1)
            wait_until(lambda: not one.status.no_subscribers, 10, "the warning to go")


def test_delivery_none_keeps_history_and_sends_nothing(tmp_path: Path, producers: list[Producer]) -> None:
    with (
        Mosquitto(tmp_path / "broker") as broker,
        peer(broker.port, "#") as observer,
        uplink(write_settings(tmp_path, broker.port, delivery="none")) as one,
    ):
        producers.append(Producer(one.settings))
        producers[0].add(50)
        wait_until(lambda: producers[0].pending() == 0, 10, "the events to become history")
        assert len(one.outbox.history(limit=1000)) == 50
        assert one.status.state == "off"
    assert not observer.heard


@pytest.mark.parametrize(("persistence", "kill"), [(True, True), (False, False)])
def test_broker_restarts_while_events_flow(tmp_path: Path, version: str, persistence: bool, kill: bool, producers: list[Producer]) -> None:
    with (
        Mosquitto(tmp_path / "broker", persistence=persistence) as broker,
        Hub(tmp_path, broker.port, version) as hub,
        uplink(write_settings(tmp_path, broker.port, version=version, delivery="hub")) as one,
    ):
        producers.append(Producer(one.settings))
        producers[0].add(100)
        wait_until(lambda: hub.count() > 20, 15, "the first events")
        producers[0].add(200)
        broker.restart(kill=kill)
        producers[0].add(100)
        stored_once(hub, producers[0])
        assert one.outbox.stats()["event"]["lost"] == 0


def test_broker_gone_while_events_come(tmp_path: Path, version: str, producers: list[Producer]) -> None:
    broker = Mosquitto(tmp_path / "broker")
    with uplink(write_settings(tmp_path, broker.port, version=version, delivery="hub")) as one:
        producers.append(Producer(one.settings))
        producers[0].add(1500, batch=100)
        wait_until(lambda: one.status.trouble is not None, 10, "the outage to be shown")
        with broker, Hub(tmp_path, broker.port, version) as hub:
            stored_once(hub, producers[0])


def test_only_acknowledged_ranges_are_settled(tmp_path: Path, version: str, producers: list[Producer]) -> None:
    with heard(tmp_path, version, "hub") as (hub, one):
        producers.append(Producer(one.settings))
        producers[0].add(20)
        wait_until(lambda: len(hub.heard) >= 20, 10, "the events")
        spool = hub.heard[0].data["id"].split("/")[1]
        hub.say(ACK, {"v": 1, "spool": "0" * 16, "upto": 20})
        hub.say(ACK, b"not an acknowledgement")
        hub.say(ACK, {"v": 1, "spool": spool, "upto": 3, "ranges": [[7, 9], [20, 20]]})
        wait_until(lambda: producers[0].pending() == 13, 10, "seven rows to be settled")
        producers[0].add(1)  # a row after all that may be on their way
        left = [row.seq for row in producers[0].outbox.pending("event", 100)]
        assert left == [4, 5, 6, *range(10, 20), 21]
        sent = lambda: [each.data["data"]["n"] + 1 for each in hub.heard]  # noqa: E731
        seen = wait_until(lambda: 21 in sent() and sent().index(21), 10, "the new row")
        wait_until(lambda: len(hub.heard) >= seen + 1 + len(left), 15, "the others to be sent again")
        assert set(sent()[seen:]) <= set(left)
        hub.say(ACK, {"v": 1, "spool": spool, "upto": 21})
        wait_until(lambda: producers[0].pending() == 0, 10, "the rest to be settled")
        assert one.outbox.stats()["event"]["settled"] == 21


def test_poison_is_declared_and_blocks_nobody(tmp_path: Path, version: str, producers: list[Producer]) -> None:
    with (
        Mosquitto(tmp_path / "broker") as broker,
        Hub(tmp_path, broker.port, version) as hub,
        uplink(write_settings(tmp_path, broker.port, version=version, delivery="hub")) as one,
    ):
        producers.append(Producer(one.settings))
        poison = event(0)
        one.outbox.append("event", [type(poison)("cam", "face", {"type": "nonsense"}, poison.captured_at, poison.mono_ns)])
        producers[0].add(50)
        wait_until(lambda: hub.count() == 50, 15, "the others at the hub")
        wait_until(lambda: one.status.dead_letters == 1, 15, "the poison to be given up")
        assert one.status.refused >= 5, "more only where an answer came too late"
        assert hub.sql("SELECT times FROM dead_letters")[0][0] >= 5
        (loss,) = wait_until(lambda: hub.sql("SELECT payload FROM records WHERE lane = 'loss'"), 10, "the declaration")
        data = json.loads(loss[0])["data"]
        assert (data["lane"], data["count"], data["ranges"]) == ("event", 1, [[1, 1]])
        assert data["reason"].startswith("refused: the hub: face")
        books = wait_until(lambda: (found := one.outbox.stats()["event"])["pending"] == 0 and found, 10, "an empty lane")
        assert (books["produced"], books["settled"], books["lost"]) == (51, 50, 1)
        wait_until(lambda: hub.sql("SELECT ranges FROM spools WHERE ranges = '[[1, 51]]'"), 5, "the gap to be closed by the declaration")


def test_an_outbox_restored_from_a_copy_loses_nothing_in_silence(tmp_path: Path, producers: list[Producer]) -> None:
    with Mosquitto(tmp_path / "broker") as broker, Hub(tmp_path, broker.port, "5") as hub:
        path = write_settings(tmp_path, broker.port, version="5", delivery="hub")
        folder = load(path).outbox_dir
        with uplink(path) as one:
            producer = Producer(one.settings)
            producer.add(10)
            stored_once(hub, producer)
        producer.close()
        shutil.copytree(folder, tmp_path / "copy")
        with uplink(path) as one:
            producer = Producer(one.settings)
            producer.produced = 10
            producer.add(10)
            stored_once(hub, producer)
        producer.close()
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "copy", folder)
        with uplink(path) as one:
            producers.append(Producer(one.settings))
            one.outbox.append("event", [event(number) for number in range(100, 105)])
            wait_until(lambda: "new spool" in one.outbox.stats()["event"]["alarm"], 15, "the alarm")
            one.outbox.append("event", [event(number) for number in range(105, 110)])
            books = wait_until(lambda: (found := one.outbox.stats()["event"])["pending"] == 0 and found, 20, "an empty lane")
            assert (books["produced"], books["settled"], books["lost"]) == (20, 15, 5)
        assert hub.numbers() == [*range(20), *range(105, 110)]


def test_larger_than_the_broker_takes(tmp_path: Path, producers: list[Producer]) -> None:
    with (
        Mosquitto(tmp_path / "broker", extra="max_packet_size 4000") as broker,
        Hub(tmp_path, broker.port, "5") as hub,
        uplink(write_settings(tmp_path, broker.port, version="5", delivery="hub")) as one,
    ):
        producers.append(Producer(one.settings))
        one.outbox.append("event", [event(-1, padding="x" * 5000)])
        producers[0].add(20)
        wait_until(lambda: hub.count() == 20, 15, "the others at the hub")
        (loss,) = wait_until(lambda: hub.sql("SELECT payload FROM records WHERE lane = 'loss'"), 15, "the declaration")
        assert json.loads(loss[0])["data"]["reason"] == "refused: larger than the broker's limit of 4000 bytes"
        assert one.status.connects == 1


@pytest.mark.parametrize("delivery", ["hub", "broker"])
def test_a_broker_that_ends_the_connection_over_a_large_row(tmp_path: Path, delivery: str, producers: list[Producer]) -> None:
    """MQTT 3.1.1 has no other way to say that. The other rows get through, and the large one is declared."""
    with (
        Mosquitto(tmp_path / "broker", extra="max_packet_size 20000") as broker,
        Hub(tmp_path, broker.port, "5") as hub,
        uplink(write_settings(tmp_path, broker.port, version="3.1.1", delivery=delivery)) as one,
    ):
        wait_until(lambda: one.status.connected and "connected" in hub.log(), 15, "the sessions")
        producers.append(Producer(one.settings))
        one.outbox.append("event", [event(-1, padding="x" * 30_000)])
        producers[0].add(20)
        wait_until(lambda: hub.count() == 20, 30, "the others at the hub")
        (loss,) = wait_until(lambda: hub.sql("SELECT payload FROM records WHERE lane = 'loss'"), 60, "the declaration")
        data = json.loads(loss[0])["data"]
        assert (data["count"], data["ranges"]) == (1, [[1, 1]])
        assert data["reason"] == "refused: the broker ends the connection over it; it may be too large"
        connects = one.status.connects
        producers[0].add(20)
        stored_once(hub, producers[0])
        assert one.status.connects <= connects + 1
        books = one.outbox.stats()["event"]
        assert (books["produced"], books["settled"], books["lost"]) == (41, 40, 1)


def test_missing_rights_lose_nothing(tmp_path: Path, producers: list[Producer]) -> None:
    rights = f"topic read #\ntopic write almena/1/{DEVICE}/status\ntopic write almena/1/hub/state\n"
    broker = Mosquitto(tmp_path / "broker", acl=rights)
    with broker, uplink(write_settings(tmp_path, broker.port, version="5", delivery="broker")) as one:
        producers.append(Producer(one.settings))
        producers[0].add(10)
        wait_until(lambda: one.status.refused > 5, 20, "refusals")
        assert "not authorised" in one.status.text
        assert one.status.dead_letters == 0
        (broker.folder / "acl").write_text("topic readwrite #\n")
        broker.restart()
        wait_until(lambda: producers[0].pending() == 0, 10, "the events to be settled")
        assert one.outbox.stats()["event"]["lost"] == 0
