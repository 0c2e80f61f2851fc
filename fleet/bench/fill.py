"""A store as a large fleet leaves it after a year: devices, events, alerts. It is filled past the ingest, to be quick."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Engine, insert

from fleet.bench.load import name, spool
from fleet.store import sql, tables
from fleet.store.database import migrate, writing
from fleet.store.rows import EVENT

AT_ONCE = 20_000
YEAR_S = 365 * 86400.0
SITES = 40
PEOPLE = 2000
CLINIC_EVERY = 50
"""One device of so many classifies radiographs; the others see faces."""
FACES = ("door", "hall", "yard")
FILLING = ("PRAGMA synchronous=OFF", "PRAGMA cache_size=-2000000")
FACE = (
    '"type":"%s","track":"%08x","box":[412.5,96.25,501.0,214.75],"score":0.973,"started_at":%.3f,"ended_at":null,"identity":"p-%d",'
    '"name":"Person %d","decision":"known","distance":0.31,"threshold":0.55,"second_best":0.7,"cluster":null,"frames":1,"reason":null'
)
STUDY = '"type":"finished","decision":"%s","study":"%08x","scores":{"normal":0.91,"pneumonia":0.09},"abstained":null'
STREAM = '"type":"state","state":"%s","detail":"no frame for 5 s"'
ENVELOPE = (
    '{"v":1,"id":"%s/%s/%d","stream":"%s","kind":"%s","captured_at":%.3f,"mono_ns":%d,"boot_id":"b","clock":"synced","model":"%s",'
    '"host":"h","data":{%s}}'
)


def fill(engine: Engine, devices: int, events: int, seed: int = 1) -> None:
    """Into an empty database; indexes are made at the end, as after a restore."""
    migrate(engine)
    now = time.time()
    with writing(engine) as connection:
        _devices(connection, devices, now)
    later = sorted(tables.events.indexes, key=lambda index: str(index.name))
    with writing(engine) as connection:
        for index in later:
            index.drop(connection)
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            database: Any = connection.connection.driver_connection
            for pragma in FILLING:
                database.execute(pragma)
        for page in _pages(devices, events, now, seed):
            with connection.begin():
                sql.add(connection, tables.events, EVENT, page)
        with connection.begin():
            for index in later:
                index.create(connection)


def _devices(connection: Connection, devices: int, now: float) -> None:
    """Devices, every hundredth of them silent, and alerts of every tenth."""
    rows = []
    for number in range(devices):
        figures = {
            "cpu_percent": number % 97 * 1.0,
            "temperature_c": 40.0 + number % 50,
            "outbox_depth": float(number % 7),
            "fps.door": 25.0,
        }
        rows.append({
            "device": name(number), "state": "online", "seen_at": now - (3600 if number % 100 == 0 else 1), "status_at": now - 9e5,
            "lease_s": 86400.0 if number % 100 else 90.0, "agent": "1.0.0", "models": {"face": "dlib-resnet"},
            "site": f"site-{number % SITES}",
            "group": f"group-{number % 7}", "telemetry": {"at": now}, "telemetry_at": now, "figures": figures, "losses": number % 3,
        })  # fmt: skip
    connection.execute(insert(tables.devices), rows)
    fired = [
        {"device": name(number), "rule": "hot", "state": "firing" if number % 20 else "resolved", "since": now - number, "until": now}
        for number in range(0, devices, 10)
    ]
    connection.execute(insert(tables.alerts), fired)


def _pages(devices: int, events: int, now: float, seed: int) -> Iterator[list[tuple[Any, ...]]]:
    """Rows of `events` in the order of their time; a few devices have many, most have few."""
    chance = random.Random(seed)
    numbers = [0] * devices
    names = [(name(number), spool(number, 0)) for number in range(devices)]
    page: list[tuple[Any, ...]] = []
    for count in range(events):
        device = int(chance.random() ** 2 * devices)
        numbers[device] += 1
        at = now - YEAR_S * (1 - (count + chance.random()) / events)
        page.append(_event(chance, device, names[device], numbers[device], at))
        if len(page) == AT_ONCE:
            yield page
            page = []
    yield page


def _event(chance: random.Random, number: int, own: tuple[str, str], seq: int, at: float) -> tuple[Any, ...]:
    device, spool_name = own
    draw, stream, identity = chance.random(), FACES[number % 3], None
    if number % CLINIC_EVERY == 0 and draw < 0.9:
        stream, kind, stage, subject = "scanner", "study", "finished", "normal" if draw < 0.8 else "pneumonia"
        model, data = "xray", STUDY % (subject, seq)
    elif draw > 0.97:
        kind, stage, subject = "stream", "state", "frozen" if draw > 0.985 else "running"
        model, data = "", STREAM % subject
    else:
        who = int(draw * PEOPLE)
        kind, stage, subject, identity = "face", "new", f"Person {who}", f"p-{who}"
        model, data = "dlib-resnet", FACE % (stage, seq, at, who, who)
    payload = (ENVELOPE % (device, spool_name, seq, stream, kind, at, seq, model, data)).encode()
    return (device, spool_name, seq, at, seq, "b", at + 0.2, payload, at, stream, kind, stage, subject, identity, "synced", model)
