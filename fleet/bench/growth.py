"""How the hub's cost grows with the fleet: the same number of events, from ever more devices."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fleet.alerts.herald import Herald
from fleet.alerts.watch import Watch
from fleet.bench.load import Publisher, face, sample
from fleet.bench.questions import NoLink
from fleet.bench.site import Broker, Ingest, wait
from fleet.settings import AlertSettings
from fleet.store import queries
from fleet.store.database import connect, migrate

SIZES = (10, 100, 1000, 10_000)
WITHIN_S = 300.0
WIDTH, HEIGHT, EDGE = 560, 320, 56
LINES = {
    "cpu_us_per_message": ("#0b6e99", "processor, µs a message"),
    "memory_mb": ("#b3541e", "memory, MB"),
    "alerts_ms": ("#3d7a37", "a look at all alert rules, ms"),
    "list_ms": ("#7a3d7a", "first page of the fleet, ms"),
}


def measure_growth(folder: Path, events: int, sizes: Sequence[int] = SIZES) -> list[dict[str, float]]:
    """A row for each size. Raises AlmenaError where a part does not start, or takes far too long."""
    with Broker(folder) as broker:
        return [_of_size(folder / str(size), broker.port, events, size) for size in sizes]


def _of_size(folder: Path, port: int, events: int, devices: int) -> dict[str, float]:
    folder.mkdir()
    url = f"sqlite:///{folder}/hub.sqlite"
    engine = connect(url)
    migrate(engine)
    with Ingest(folder, port, url, engine) as ingest:
        ingest.start()  # from here on the broker keeps what comes for it
        ingest.stop()
        publisher, run = Publisher(port), int(time.time())
        for device in range(devices):
            publisher.publish(*sample(device, run))
        for number in range(events):
            publisher.publish(*face(number, run, devices))
        publisher.close()
        ingest.start()
        began, spent = time.perf_counter(), ingest.cpu_s()
        wait(lambda: ingest.newest() >= events, WITHIN_S, f"storing the events of {devices} devices")
        seconds, spent, memory = time.perf_counter() - began, ingest.cpu_s() - spent, ingest.memory_mb()
    watch = Watch(engine, NoLink(connected=True), Herald(engine, AlertSettings()), 5.0)
    with engine.connect() as connection:
        listed = _ms(lambda: queries.device_list(connection, time.time(), queries.DeviceFilter(), sort="state"))
    looked = _ms(lambda: watch.look(time.time()))
    engine.dispose()
    return {
        "devices": devices,
        "messages_per_second": round((events + devices) / seconds),
        "cpu_us_per_message": round(1e6 * spent / (events + devices)),
        "memory_mb": round(memory),
        "store_bytes_per_event": round((folder / "hub.sqlite").stat().st_size / events),
        "alerts_ms": looked,
        "list_ms": listed,
    }


def table(rows: Sequence[dict[str, float]]) -> str:
    """For people."""
    head = " | ".join(rows[0])
    return "\n".join([head, *(" | ".join(f"{value:>{len(name)}g}" for name, value in row.items()) for row in rows)])


def plot(rows: Sequence[dict[str, float]]) -> str:
    """An SVG with logarithmic axes: devices to the right, LINES upwards from 0.1 to 10,000."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for power in range(-1, 5):
        parts.append(f'<line x1="{EDGE}" x2="{WIDTH - 10}" y1="{_up(10.0**power)}" y2="{_up(10.0**power)}" stroke="#ddd"/>')
        parts.append(f'<text x="{EDGE - 6}" y="{_up(10.0**power) + 4}" text-anchor="end">{10.0**power:g}</text>')
    for row in rows:
        parts.append(f'<text x="{_right(row["devices"])}" y="{HEIGHT - 30}" text-anchor="middle">{row["devices"]:,.0f}</text>')
    parts.append(f'<text x="{(WIDTH + EDGE) / 2}" y="{HEIGHT - 10}" text-anchor="middle">devices</text>')
    for place, (name, (colour, text)) in enumerate(LINES.items()):
        points = " ".join(f"{_right(row['devices'])},{_up(row[name])}" for row in rows)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{EDGE + 12}" y="{24 + 14 * place}" fill="{colour}">{text}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _right(devices: float) -> float:
    return round(EDGE + 20 + (math.log10(devices) - 1) / 3 * (WIDTH - EDGE - 60), 1)


def _up(value: float) -> float:
    return round(HEIGHT - 50 - (math.log10(max(value, 0.1)) + 1) / 5 * (HEIGHT - 70), 1)


def _ms(work: Callable[[], Any]) -> float:
    """The quicker of two times, milliseconds."""
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return round(1000 * min(taken), 1)
