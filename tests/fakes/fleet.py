"""A device's uplink, the hub's ingest, and an observer that shares no code with them, for tests against a real broker."""

from __future__ import annotations

import json
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import yaml
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent import settings
from agent.datatypes import Event
from agent.mqtt import leave
from agent.outbox import Outbox
from agent.settings import Settings
from tests.waiting import wait_until

DEVICE = "dev-1"
VERSIONS = ("5", "3.1.1")


def write_settings(folder: Path, port: int, **mqtt: Any) -> Path:
    """A settings file for a device without streams and page."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "almena.yaml"
    config = {
        "device": {"name": DEVICE},
        "state_dir": str(folder / "state"),
        "mqtt": {"port": port, "keepalive_s": 5, **mqtt},
        "web": {"enabled": False},
        "telemetry": {"period_s": 3600},
    }
    path.write_text(yaml.safe_dump(config))
    return path


def load(path: Path) -> Settings:
    """The settings in a file."""
    return settings.load(path)


class Producer:
    """Appends numbered events, as the vision process would, and knows how many."""

    def __init__(self, config: Settings) -> None:
        self.outbox = Outbox.open(config.outbox_dir, config.device.name, config.outbox)
        self.produced = 0

    def add(self, count: int, batch: int = 10) -> None:
        """Append `count` events in batches."""
        for start in range(0, count, batch):
            numbers = range(self.produced + start, self.produced + min(start + batch, count))
            self.outbox.append("event", [event(number) for number in numbers])
        self.produced += count

    def pending(self) -> int:
        """Unsettled events."""
        return len(self.outbox.pending("event", 100_000))

    def close(self) -> None:
        """Close the outbox."""
        self.outbox.close()


def event(number: int, **data: Any) -> Event:
    """A numbered event."""
    return Event("cam", "count", {"n": number, **data}, time.time(), time.monotonic_ns())


class Process:
    """A Python module run as a process of its own, that can be killed and started again."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._arguments = [sys.executable, "-m", *arguments]
        self._log = folder / f"{arguments[0]}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def ended(self) -> bool:
        """It has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._arguments, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, once it ends by itself."""
        assert self._process is not None
        code = self._process.wait(60)
        self._process = None
        return code

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        return self._end(signal.SIGTERM)

    def log(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Process:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()

    def _end(self, number: int) -> int:
        assert self._process is not None
        os.kill(self._process.pid, number)
        code = self._process.wait(60)
        self._process = None
        return code


class Hub(Process):
    """`python -m fleet.ingest` and raw SQL on its file."""

    def __init__(self, folder: Path, port: int, version: str, *options: str) -> None:
        self.file = folder / "hub.sqlite"
        super().__init__(folder, "fleet.ingest", "--port", str(port), "--mqtt", version, "--store", str(self.file), *options)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query; none while there is no such table yet."""
        if not self.file.exists():
            return []
        with closing(sqlite3.connect(self.file, timeout=10)) as db:
            try:
                return db.execute(query).fetchall()
            except sqlite3.OperationalError:
                return []

    def numbers(self) -> list[int]:
        """The numbers of all events in the store, in ascending order."""
        return sorted(json.loads(payload)["data"]["n"] for (payload,) in self.sql("SELECT payload FROM events"))

    def count(self) -> int:
        """How many events are in the store."""
        return (self.sql("SELECT count(*) FROM events") or [(0,)])[0][0]


@dataclass(frozen=True)
class Heard:
    """A message that a peer received."""

    topic: str
    payload: bytes
    retained: bool

    @property
    def data(self) -> Any:
        """Its JSON."""
        return json.loads(self.payload)


class Peer:
    """A plain MQTT client that records what it hears."""

    def __init__(self, client: paho.Client) -> None:
        self.client = client
        self.heard: list[Heard] = []
        self.subscribed: queue.Queue[int] = queue.Queue()

    def on(self, topic_end: str) -> list[Heard]:
        """What was heard on topics with this ending."""
        return [each for each in list(self.heard) if each.topic.endswith(topic_end)]

    def say(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        """Publish JSON, or bytes as they are, at QoS 1, and wait until the broker has it."""
        raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.client.publish(topic, raw, 1, retain).wait_for_publish(30)


@contextmanager
def peer(port: int, *topics: str, version: str = "5", name: str = "peer") -> Iterator[Peer]:
    """A peer that is connected and subscribed; it connects again by itself."""
    protocol = MQTTProtocolVersion.MQTTv5 if version == "5" else MQTTProtocolVersion.MQTTv311
    client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=protocol)
    one = Peer(client)
    client.reconnect_delay_set(1, 1)
    client.on_message = lambda _c, _d, message: one.heard.append(Heard(message.topic, bytes(message.payload), message.retain))
    client.on_subscribe = lambda _c, _d, mid, _r, _p: one.subscribed.put(mid)
    client.on_connect = lambda *_: client.subscribe([(topic, 1) for topic in topics]) if topics else one.subscribed.put(0)
    client.connect("127.0.0.1", port, 30)
    client.loop_start()
    try:
        one.subscribed.get(timeout=30)
        yield one
    finally:
        leave(client)
        client.on_message = client.on_subscribe = client.on_connect = None


def stored_once(hub: Hub, producer: Producer, timeout: float = 30) -> None:
    """Wait until the hub has every event, then check that it has each exactly once and the device nothing pending."""
    wait_until(lambda: hub.count() >= producer.produced, timeout, f"{producer.produced} events at the hub")
    assert hub.numbers() == list(range(producer.produced))
    wait_until(lambda: producer.pending() == 0, timeout, "every event to be settled")
    assert hub.numbers() == list(range(producer.produced))
