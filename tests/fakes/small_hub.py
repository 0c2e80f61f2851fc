"""A whole hub - ingest, console, alerts - on SQLite at a real broker, and devices that are words on the wire."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, expect

from agent import wire
from fleet.accounts import Accounts
from fleet.hub import Hub
from fleet.settings import HubSettings
from fleet.store.database import connect
from tests.fakes.face_events import face_data
from tests.fakes.fleet import Peer, peer
from tests.fakes.hub_store import message
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.watched import watched
from tests.waiting import wait_until

PASSWORD = "correct horse battery"
SPOOL = "00112233445566aa"


class SmallHub:
    """The hub at `url`, and what its devices say."""

    def __init__(self, url: str, devices: Peer) -> None:
        self.url = url
        self.devices = devices
        self._numbers: dict[tuple[str, str], int] = {}
        self.client = httpx.Client(base_url=f"{url}api/v1/", timeout=30)

    def __enter__(self) -> SmallHub:
        self.client.post("login", json={"username": "ada", "password": PASSWORD}).raise_for_status()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def birth(self, device: str, **changes: Any) -> None:
        """It is there."""
        said = {"v": 1, "state": "online", "session": "s", "boot_id": "b", "agent": "0.9", "models": {}, "lease_s": 600.0, **changes}
        self.devices.say(f"almena/1/{device}/status", said, retain=True)

    def row(self, device: str, topic: str, kind: str, data: dict[str, Any], stream: str = "", **changes: Any) -> None:
        """A row of its outbox."""
        number = self._numbers[device, topic] = self._numbers.get((device, topic), 0) + 1
        spool = f"{sum(topic.encode()) % 9999:04d}{SPOOL[4:]}"
        known = {"id": f"{device}/{spool}/{number}", "stream": stream, "kind": kind, "data": data, "captured_at": time.time()}
        self.devices.say(f"almena/1/{device}/up/{topic}", message(number, **{**known, **changes}))

    def event(self, device: str, kind: str, data: dict[str, Any], stream: str = "door", **changes: Any) -> None:
        """Something it saw."""
        self.row(device, f"event/{stream}/{kind}", kind, data, stream, **changes)

    def sample(self, device: str, **sections: Any) -> None:
        """What it measures."""
        self.row(device, "telemetry", "telemetry", {"samples": [{"at": time.time(), "period_s": 5.0, **sections}]})

    def get(self, path: str) -> Any:
        """What the API answers."""
        answer = self.client.get(path)
        answer.raise_for_status()
        return answer.json()

    def stored(self, path: str, enough: int, member: str) -> None:
        """Wait until a list of the API has so many entries."""
        wait_until(lambda: len(self.get(path)[member]) >= enough, 30, f"{enough} of {path}")


@contextmanager
def small_hub(folder: Path, store: str | None = None) -> Iterator[SmallHub]:
    """It runs; `ada` is its admin, with PASSWORD. `store`: one that is there already."""
    store = store or f"sqlite:///{folder}/hub.sqlite"
    with Mosquitto(folder / "broker") as broker, peer(broker.port, "almena/1/+/down/#", name="devices") as devices:
        settings = HubSettings.model_validate(
            {"store": store, "broker": {"port": broker.port}, "web": {"port": 0}, "alerts": {"period_s": 0.2}}
        )
        hub = Hub(settings)
        engine = connect(store)
        accounts = Accounts(engine)
        if not accounts.users():
            accounts.add_user("test", "ada", PASSWORD, "admin")
        engine.dispose()
        hub.start()
        try:
            with SmallHub(hub.url, devices) as small:
                wait_until(lambda: small.client.get(f"{hub.url}readyz").status_code == 200, 30, "the hub at the broker")
                yield small
        finally:
            hub.stop()


def face(name: str | None = None, kind: str = "new", **data: Any) -> dict[str, Any]:
    """The data of a face event of somebody who came five seconds ago."""
    now = time.time()
    return face_data(kind, name, now - 5, **{"ended_at": now if kind == "end" else None, "reason": None, **data})


def reply(device: str, command: dict[str, Any], **changes: Any) -> tuple[str, dict[str, Any]]:
    """Topic and payload of a device's answer."""
    said = {"v": 1, "id": command["id"], "ok": True, "code": "done", "detail": "", "result": {"streams": 1}, **changes}
    return wire.TOPICS["reply"].of(device, id=command["id"]), said


@contextmanager
def reader(browser: Browser, hub: SmallHub, name: str = "ada", **options: Any) -> Iterator[Page]:
    """Somebody who has logged in; fails when a script breaks, a dialog pops up or another host is asked. `options`: see `watched`."""
    with watched(browser, hub.url, **options) as page:
        page.goto(hub.url)
        page.locator("#username").fill(name)
        page.locator("#password").fill(PASSWORD)
        page.locator("#password").press("Enter")
        expect(page.locator("#live")).to_have_class("pill good")
        yield page
