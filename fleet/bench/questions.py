"""What the console asks, of a store that `fleet.bench.fill` has filled: each through the real API, from the request to the last byte."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import Engine, func, select

from fleet.accounts import Accounts
from fleet.api.app import web_server
from fleet.api.context import Context
from fleet.bench.fill import YEAR_S, fill
from fleet.bench.load import name
from fleet.courier import Courier
from fleet.settings import HubSettings, HubWebSettings
from fleet.store.database import connect, migrate
from fleet.store.tables import events

TIMES = 3
DAY = 86400.0
API = "/api/v1/"


@dataclass
class NoLink:
    """There is no broker."""

    connected: bool = False
    trouble: str = ""
    stored: int = 0
    refused: int = 0
    unheard: str = ""
    clock_trouble: str = ""
    certificate_ends: float | None = None

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Nobody takes it."""
        return False


def measure_questions(url: str, devices: int, count: int) -> dict[str, Any]:
    """Seconds that each question takes, the slowest of TIMES; the store is filled first if it is empty."""
    engine = connect(url)
    migrate(engine)
    began = time.monotonic()
    if not _stored(engine):
        fill(engine, devices, count)
    filled = time.monotonic() - began
    link, settings = NoLink(), HubSettings(store=url, web=HubWebSettings(port=0))
    accounts = Accounts(engine)
    server = web_server(Context(settings, engine, link, accounts, Courier(engine, link)))
    server.start()
    try:
        key = accounts.add_key("bench", "bench", "admin")[1]
        with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=600) as client:
            taken = {what: _slowest(client, path, wanted) for what, (path, wanted) in questions(time.time()).items()}
    finally:
        server.stop()
        engine.dispose()
    return {"store": engine.dialect.name, "devices": devices, "events": count, "filled_s": round(filled, 1), "seconds": taken}


def questions(now: float) -> dict[str, tuple[str, dict[str, Any]]]:
    """By a name: path and parameters. Device 1 has very many events, the last one few."""
    busy, clinic = name(1), name(0)
    fleet: dict[str, dict[str, Any]] = {
        "fleet": {}, "search": {"search": "bench-77"}, "state": {"state": "offline"}, "site": {"site": "site-3"},
        "group": {"group": "group-2"}, "alert": {"alert": "any"}, "by state": {"sort": "state"},
        "by temperature": {"sort": "-temperature_c"}, "by alerts": {"sort": "-alerts"},
    }  # fmt: skip
    seen: dict[str, dict[str, Any]] = {
        "all": {}, "device": {"device": busy}, "site": {"site": "site-3"}, "stream": {"stream": "door"}, "kind": {"kind": "face"},
        "rare kind": {"kind": "stream"}, "person": {"subject": "Person 77"}, "label": {"subject": "pneumonia"},
        "nobody": {"subject": "nobody"}, "last Tuesday": {"since": now - 5 * DAY, "until": now - 4 * DAY},
        "a year ago": {"until": now - YEAR_S + DAY}, "site and kind": {"site": "site-3", "kind": "face"},
        "site without the kind": {"site": "site-3", "kind": "study"}, "site and stream": {"site": "site-3", "stream": "door"},
        "site without the stream": {"site": "site-3", "stream": "scanner"}, "site and person": {"site": "site-3", "subject": "Person 77"},
        "site without the label": {"site": "site-3", "subject": "pneumonia"}, "device and kind": {"device": busy, "kind": "stream"},
        "device without the kind": {"device": busy, "kind": "study"}, "device and person": {"device": busy, "subject": "Person 77"},
        "device without the person": {"device": clinic, "subject": "nobody"},
        "device without the stream": {"device": busy, "stream": "scanner"},
        "stream without the kind": {"stream": "door", "kind": "study"}, "person and kind": {"subject": "Person 77", "kind": "face"},
        "person without the kind": {"subject": "normal", "kind": "face"}, "person and stream": {"subject": "Person 77", "stream": "hall"},
        "site and last Tuesday": {"site": "site-3", "since": now - 5 * DAY, "until": now - 4 * DAY},
        "kind and a year ago": {"kind": "study", "until": now - YEAR_S + DAY},
    }  # fmt: skip
    one = f"devices/{busy}"
    return {
        **{f"fleet: {what}": ("devices", wanted) for what, wanted in fleet.items()},
        **{f"events: {what}": ("events", wanted) for what, wanted in seen.items()},
        "fleet: counts": ("fleet", {}),
        "a device": (one, {}),
        "a device: losses": (f"{one}/losses", {}),
        "a device: chart": (f"{one}/telemetry", {"metric": "cpu_percent"}),
        "alerts: firing": ("alerts", {"state": "firing"}),
        "alerts: all": ("alerts", {}),
        "metrics": ("/metrics", {}),
    }


def _slowest(client: httpx.Client, path: str, wanted: dict[str, Any]) -> float:
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        client.get(path if path.startswith("/") else f"{API}{path}", params=wanted).raise_for_status()
        taken.append(time.perf_counter() - began)
    return round(max(taken), 3)


def _stored(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one())
