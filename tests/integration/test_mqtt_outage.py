"""A broker that falls silent, or is away for an hour, which passes here in twelve seconds: pauses between tries are as much shorter."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from agent.datatypes import Event
from agent.settings import MEBIBYTE
from agent.uplink.app import PACE
from tests.fakes.fleet import DEVICE, Hub, Process, Producer, load, peer, stored_once, write_settings
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.uplinks import HASTE, uplink
from tests.waiting import wait_until

HOUR_S = 3600 / HASTE
MINUTES = 60
SAMPLES_A_MINUTE = 30
CONNECTING_S = 8.0
"""What a connection takes on a busy machine, beside the pause before it."""


class Held(NamedTuple):
    """What a process holds."""

    memory: int
    files: int
    threads: int

    @classmethod
    def by(cls, pid: int) -> Held:
        process = psutil.Process(pid)
        return cls(process.memory_info().rss, process.num_fds(), process.num_threads())


def settings(folder: Path, port: int) -> Path:
    """Of a device with little room for telemetry."""
    path = write_settings(folder, port, delivery="hub")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "outbox": {"telemetry": {"max_bytes": MEBIBYTE}}}))
    return path


def an_hour(producer: Producer, pid: int) -> list[Held]:
    """Events and telemetry come all the time; what the uplink holds at the end of each minute."""
    began, held = time.monotonic(), []
    for minute in range(1, MINUTES + 1):
        producer.add(20)
        sample = Event("", "telemetry", {"samples": [{"at": time.time(), "padding": "x" * 1500}]}, time.time(), time.monotonic_ns())
        producer.outbox.append("telemetry", [sample] * SAMPLES_A_MINUTE)
        wait_until(lambda: time.monotonic() >= began + minute * HOUR_S / MINUTES, HOUR_S, "the minute to pass")  # noqa: B023
        held.append(Held.by(pid))
    return held


def telemetry(hub: Hub) -> int:
    """How many samples are at the hub."""
    found: int = hub.sql("SELECT count(*) FROM samples")[0][0]
    return found


def test_broker_away_for_an_hour(tmp_path: Path) -> None:
    path = settings(tmp_path, (broker := Mosquitto(tmp_path / "broker")).port)
    producer = Producer(load(path))
    with Process(tmp_path, "tests.fakes.uplinks", str(path)) as device:
        with broker, Hub(tmp_path, broker.port, "5") as hub:
            producer.add(20)
            stored_once(hub, producer)
        held = an_hour(producer, device.pid)
        early, late = held[MINUTES // 3], held[-1]
        assert late.files <= early.files + 2
        assert late.threads <= early.threads + 1
        assert late.memory < early.memory + 8 * MEBIBYTE
        with broker, peer(broker.port, f"almena/1/{DEVICE}/status") as observer:
            began = time.monotonic()
            wait_until(lambda: [each for each in observer.on("status") if each.data["state"] == "online"], 20, "the session")
            assert time.monotonic() - began < PACE.connect.cap_s / HASTE + CONNECTING_S, "the pauses between tries are bounded"
            with Hub(tmp_path, broker.port, "5") as hub:
                stored_once(hub, producer)
                balanced(hub, producer)
    producer.close()


def test_a_broker_that_falls_silent_is_noticed(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker, Hub(tmp_path, broker.port, "5") as hub:
        with uplink(write_settings(tmp_path, broker.port, delivery="hub", keepalive_s=5)) as one:
            producer = Producer(one.settings)
            producer.add(20)
            stored_once(hub, producer)
            with broker.silent():
                producer.add(200)
                wait_until(lambda: not one.status.connected, 20, "the silence to be noticed")
                assert one.status.trouble is not None
            stored_once(hub, producer)
            assert one.outbox.stats()["event"]["lost"] == 0
        producer.close()


def balanced(hub: Hub, producer: Producer) -> None:
    """Telemetry made room, and only telemetry; what went is declared, what did not is at the hub."""
    books = wait_until(lambda: (found := producer.outbox.stats())["telemetry"]["pending"] == 0 and found, 20, "telemetry to be settled")
    assert (books["event"]["produced"], books["event"]["settled"], books["event"]["lost"]) == (producer.produced, producer.produced, 0)
    assert books["telemetry"]["produced"] == books["telemetry"]["settled"] + books["telemetry"]["lost"]
    assert books["telemetry"]["produced"] >= MINUTES * SAMPLES_A_MINUTE
    assert telemetry(hub) == books["telemetry"]["settled"]
    wait_until(lambda: sum(loss["count"] for loss in declared(hub)) == books["telemetry"]["lost"] > 0, 20, "the loss to be declared")
    assert {(loss["lane"], loss["reason"]) for loss in declared(hub)} == {("telemetry", "evicted")}


def declared(hub: Hub) -> list[dict[str, Any]]:
    """Loss records at the hub."""
    return [json.loads(payload)["data"] for (payload,) in hub.sql("SELECT payload FROM records WHERE lane = 'loss'")]
