"""The measurement: what the broker has queued is taken in turns by a bare subscriber and by the ingest; then events at a steady pace."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent import wire
from agent.errors import AlmenaError
from agent.mqtt import leave
from fleet.bench.load import DEVICES, Publisher, face, spool
from fleet.bench.site import Broker, Ingest, wait
from fleet.store.database import connect, migrate

SETTLES_WITHIN_S = 300.0
FIRST_SHARE = 0.1
"""Of the events; the start of a process, which is not measured, lies before them."""


def measure(folder: Path, url: str, events: int, repeats: int, pace: float, seconds: float) -> dict[str, Any]:
    """Figures for `url`. Raises AlmenaError where a part does not start, or takes far too long."""
    engine = connect(url)
    migrate(engine)
    started = int(time.time())
    bare, stored, lost = [], [], 0
    with Broker(folder) as broker, Ingest(folder, broker.port, url, engine) as ingest:
        there = ingest.newest()
        for turn in range(0, 2 * repeats, 2):
            bare.append(_bare(broker.port, events, started + turn))
            rate, missing = _drained(ingest, broker.port, events, started + turn + 1, there + turn * events)
            stored.append(rate)
            lost += missing
        figures, missing = _paced(ingest, broker.port, pace, seconds, started + 2 * repeats)
    engine.dispose()
    return {
        "store": engine.dialect.name,
        "events": events,
        "stored_per_second": round(median(stored)),
        "bare_subscriber_per_second": round(median(bare)),
        "ratio": round(median(stored) / median(bare), 3),
        "lost": lost + missing,
        **figures,
        "runs": {"stored_per_second": [round(rate) for rate in stored], "bare_subscriber_per_second": [round(rate) for rate in bare]},
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()},
    }


def _bare(port: int, events: int, run: int) -> float:
    """Messages a second of a subscriber that only counts, from what the broker has queued for it."""
    _subscriber(port, 0)
    _fill(port, events, run)
    found = _subscriber(port, events)
    if found["count"] < events:
        raise AlmenaError(f"the bare subscriber got {found['count']} of {events} messages")
    return events / float(found["seconds"])


def _subscriber(port: int, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "fleet.bench.bare", str(port), f"bench-bare-{os.getpid()}", str(count)]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def _fill(port: int, events: int, run: int) -> None:
    publisher = Publisher(port)
    for number in range(events):
        publisher.publish(*face(number, run))
    publisher.close()


def _drained(ingest: Ingest, port: int, events: int, run: int, before: int) -> tuple[float, int]:
    """Events a second that the ingest stores of what the broker has queued for it, and how many are missing at last.

    What the bare subscriber was sent the broker has queued for the ingest, too; `before` is the number of the newest event then.
    """
    ingest.start()
    wait(lambda: ingest.newest() >= before, SETTLES_WITHIN_S, "storing what the bare subscriber was sent")
    ingest.stop()
    _fill(port, events, run)
    ingest.start()
    wait(lambda: ingest.newest() >= before + events * FIRST_SHARE, SETTLES_WITHIN_S, "storing the first events")
    first, began = ingest.newest(), time.perf_counter()
    wait(lambda: ingest.newest() >= before + events, SETTLES_WITHIN_S, "storing all events")
    rate = (before + events - first) / (time.perf_counter() - began)
    ingest.stop()
    return rate, events - ingest.count([spool(device, run) for device in range(DEVICES)])


def _paced(ingest: Ingest, port: int, pace: float, seconds: float, run: int) -> tuple[dict[str, Any], int]:
    """Latencies at `pace` events a second from publish to the acknowledgement after the commit, and how many events are missing."""
    total = int(pace * seconds)
    sent: dict[tuple[str, int], float] = {}
    ingest.start()
    memory, by_minute = ingest.memory_mb(), []
    with _acknowledged(port, run) as arrived:
        publisher, began = Publisher(port), time.perf_counter()
        for number in range(total):
            time.sleep(max(0.0, began + number / pace - time.perf_counter()))
            turn, device = divmod(number, DEVICES)
            sent[spool(device, run), turn + 1] = time.perf_counter()
            publisher.publish(*face(number, run))
            if (number + 1) % int(60 * pace) == 0:
                by_minute.append(round(ingest.memory_mb(), 1))
        publisher.close()
        wait(lambda: len(arrived) >= total, SETTLES_WITHIN_S, "acknowledging all events")
    taken = sorted(1000 * (arrived[key] - at) for key, at in sent.items() if key in arrived)
    grown = ingest.memory_mb() - memory
    ingest.stop()
    missing = total - ingest.count([spool(device, run) for device in range(DEVICES)])
    figures = {f"latency_p{p}_ms": round(taken[min(len(taken) - 1, int(len(taken) * p / 100))], 1) for p in (50, 95, 99)}
    return {
        "paced_per_second": pace,
        **figures,
        "ingest_memory_mb": round(memory + grown, 1),
        "ingest_memory_grown_mb": round(grown, 1),
        "ingest_memory_mb_by_minute": by_minute,
    }, missing


@contextmanager
def _acknowledged(port: int, run: int) -> Iterator[dict[tuple[str, int], float]]:
    """When each row of a run was acknowledged by the hub, by spool and number."""
    ours = {spool(device, run) for device in range(DEVICES)}
    arrived: dict[tuple[str, int], float] = {}
    known: dict[str, int] = {}

    def on_message(_client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        now, ack = time.perf_counter(), wire.decode(wire.Ack, bytes(message.payload))
        if ack.spool not in ours:
            return
        for low, high in ((known.get(ack.spool, 0) + 1, ack.upto), *ack.ranges):
            for seq in range(low, high + 1):
                arrived.setdefault((ack.spool, seq), now)
        known[ack.spool] = max(ack.upto, known.get(ack.spool, 0))

    client = paho.Client(CallbackAPIVersion.VERSION2, "bench-acks", protocol=MQTTProtocolVersion.MQTTv5)
    client.on_message = on_message
    client.connect("127.0.0.1", port, 60)
    client.subscribe(wire.TOPICS["ack"].filter(), 1)
    client.loop_start()
    try:
        yield arrived
    finally:
        leave(client)
