"""Events as devices send them, and a publisher that sends them as fast as the broker takes them."""

from __future__ import annotations

import threading
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent import wire
from agent.datatypes import Event
from agent.errors import AlmenaError
from agent.mqtt import leave

DEVICES = 20
STREAM = "door"
UNDER_WAY = 500
PATIENCE_S = 120.0


def spool(device: int, run: int) -> str:
    """The spool of a device in one run."""
    return f"{device:08x}{run:08x}"


def name(device: int) -> str:
    """A device's name."""
    return f"bench-{device}"


def face(number: int, run: int, devices: int = DEVICES) -> tuple[str, bytes]:
    """Topic and payload of event `number`, from 0 on, of a run; devices take turns."""
    now = time.time()
    turn, device = divmod(number, devices)
    data = {
        "type": "new", "track": f"{number:08x}", "box": [412.5, 96.25, 501.0, 214.75], "score": 0.973, "started_at": now, "ended_at": None,
        "identity": f"p-{number % 500}", "name": f"Person {number % 500}", "decision": "known", "distance": 0.31, "threshold": 0.55,
        "second_best": 0.7, "cluster": None, "frames": 1, "reason": None,
    }  # fmt: skip
    event = Event(STREAM, "face", data, now, time.monotonic_ns(), "dlib-resnet")
    own = {"device": name(device), "outbox": spool(device, run), "spool": spool(device, run), "seq": turn + 1}
    return wire.lane_topic(name(device), "event", STREAM, "face"), wire.encode_event(event, **own, boot_id="b", clock="synced", host="h")  # type: ignore[arg-type]


def sample(device: int, run: int) -> tuple[str, bytes]:
    """Topic and payload of a device's telemetry."""
    now = time.time()
    system = {"cpu_percent": 40.0, "memory": {"used_percent": 50.0}, "temperatures_c": {"cpu": 60.0}, "disk": {"used_percent": 20.0}}
    streams = [{"stream": STREAM, "state": "running", "processed_per_second": 25.0, "expected_per_second": 25.0}]
    data = {"samples": [{"at": now, "period_s": 30.0, "system": system, "vision": {"streams": streams}}]}
    event = Event("", "telemetry", data, now, time.monotonic_ns())
    own = wire.lane_topic(name(device), "telemetry", "", "telemetry")
    of = {"device": name(device), "outbox": spool(device, run + 1), "spool": spool(device, run + 1), "seq": 1}
    return own, wire.encode_event(event, **of, boot_id="b", clock="synced", host="h")  # type: ignore[arg-type]


class Publisher:
    """QoS 1, with a bounded number of publishes under way."""

    def __init__(self, port: int) -> None:
        self._room = threading.Semaphore(UNDER_WAY)
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "bench-publisher", protocol=MQTTProtocolVersion.MQTTv5)
        self._client.max_inflight_messages_set(UNDER_WAY)
        self._client.on_publish = lambda *_: self._room.release()
        self._client.connect("127.0.0.1", port, 60)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes) -> None:
        """Waits while too many are under way. Raises AlmenaError if the broker takes none for long."""
        if not self._room.acquire(timeout=PATIENCE_S):
            raise AlmenaError("the broker takes no messages")
        self._client.publish(topic, payload, 1)

    def close(self) -> None:
        """Leave once the broker has everything. Raises AlmenaError if it does not take it."""
        for _ in range(UNDER_WAY):
            if not self._room.acquire(timeout=PATIENCE_S):
                raise AlmenaError("the broker takes no messages")
        leave(self._client)
