"""kill -9 of uplink and ingest at random moments: nothing is lost, nothing is stored twice."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from tests.fakes.fleet import VERSIONS, Hub, Process, Producer, load, stored_once, write_settings
from tests.fakes.mosquitto import Mosquitto
from tests.waiting import wait_until

KILLS = 2
PER_KILL = 200


class Flow:
    """Appends events all the time from a thread, until it is told to end."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Flow:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.02):
            self._producer.add(10)


def after(hub: Hub, more: int, chance: random.Random) -> None:
    """Return at a random moment while the hub stores at least `more` further events."""
    goal = hub.count() + more + chance.randrange(more)
    wait_until(lambda: hub.count() >= goal, 40, f"{goal} events at the hub")
    end = time.monotonic() + chance.random() * 0.1
    wait_until(lambda: time.monotonic() >= end, 1, "the moment")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("victim", ["uplink", "ingest"])
def test_killed_at_random(tmp_path: Path, version: str, victim: str) -> None:
    chance = random.Random(f"{version} {victim}")
    with Mosquitto(tmp_path / "broker") as broker, Hub(tmp_path, broker.port, version) as hub:
        path = write_settings(tmp_path, broker.port, version=version, delivery="hub")
        producer = Producer(load(path))
        with Process(tmp_path, "agent.uplink", str(path)) as uplink:
            process = uplink if victim == "uplink" else hub
            with Flow(producer):
                for _ in range(KILLS):
                    after(hub, PER_KILL // 4, chance)
                    process.kill()
                    process.start()
            stored_once(hub, producer, 60)
        assert producer.produced >= KILLS * PER_KILL // 4
        books = producer.outbox.stats()["event"]
        assert (books["produced"], books["settled"], books["lost"], books["pending"]) == (producer.produced, producer.produced, 0, 0)
        producer.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_ingest_killed_without_acknowledging_devices(tmp_path: Path, version: str) -> None:
    """`delivery: broker`: only the session that the broker keeps for the ingest stands between a kill and a loss."""
    chance = random.Random(version)
    with Mosquitto(tmp_path / "broker") as broker, Hub(tmp_path, broker.port, version) as hub:
        path = write_settings(tmp_path, broker.port, version=version, delivery="broker")
        wait_until(lambda: "connected" in hub.log(), 15, "the hub's session")
        producer = Producer(load(path))
        with Process(tmp_path, "agent.uplink", str(path)):
            with Flow(producer):
                after(hub, PER_KILL // 4, chance)
                hub.kill()
                hub.start()
            stored_once(hub, producer, 60)
        producer.close()
