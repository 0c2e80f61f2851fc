"""The hub's web side on a SQLite of its own, with a link to the broker that a test looks at, and devices that were heard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from sqlalchemy import insert
from typer.testing import CliRunner

from agent import cli
from fleet.accounts import Accounts, Role
from fleet.api.app import web_server
from fleet.api.context import Context
from fleet.courier import Courier
from fleet.door.live import Views
from fleet.settings import AlertSettings, DoorSettings, HubSettings, HubWebSettings
from fleet.store.database import connect, migrate, writing
from fleet.store.tables import devices, events

PASSWORD = "correct horse"


@dataclass
class Postbox:
    """A link that keeps what is published; the rest is as the test wants it."""

    connected: bool = True
    trouble: str = ""
    stored: int = 0
    certificate_ends: float | None = None
    refused: int = 0
    unheard: str = ""
    clock_trouble: str = ""
    published: list[tuple[str, Any, bool]] = field(default_factory=list)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Keep it."""
        if self.connected:
            self.published.append((topic, json.loads(payload) if payload else None, retain))
        return self.connected


class HubApi:
    """Started within `with`. `client(role)` speaks with an API key."""

    def __init__(self, folder: Path, alerts: AlertSettings | None = None, door: DoorSettings | None = None) -> None:
        store = f"sqlite:///{folder / 'hub.sqlite'}"
        self.settings = HubSettings(store=store, web=HubWebSettings(port=0), alerts=alerts or AlertSettings(), door=door)
        self.engine = connect(store)
        migrate(self.engine)
        self.link = Postbox()
        self.accounts = Accounts(self.engine)
        self.courier = Courier(self.engine, self.link)
        self.context = Context(self.settings, self.engine, self.link, self.accounts, self.courier)
        self.server = web_server(self.context)
        self._clients: list[httpx.Client] = []

    def __enter__(self) -> HubApi:
        self.courier.start()
        self.server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for client in self._clients:
            client.close()
        self.server.stop()
        self.courier.stop()
        self.engine.dispose()

    def client(self, role: Role | None) -> httpx.Client:
        """With a new key of that role; without one for None."""
        key = self.accounts.add_key("test", "test", role)[1] if role else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._clients.append(httpx.Client(base_url=self.server.url, headers=headers, timeout=60))
        return self._clients[-1]

    @contextmanager
    def beside(self) -> Iterator[httpx.Client]:
        """Another hub on the same store, with views of its own: an operator's client of it."""
        server = web_server(replace(self.context, views=Views()))
        server.start()
        with httpx.Client(base_url=server.url, headers=self.client("operator").headers, timeout=60) as client:
            yield client
        server.stop()

    def almena(self, *arguments: str, code: int = 0) -> str:
        """What `almena fleet …` prints with an admin's key, once it has ended with that code."""
        key = self.accounts.add_key("test", "test", "admin")[1]
        run = CliRunner().invoke(cli.app, ["fleet", *arguments], env={"ALMENA_HUB_URL": self.server.url, "ALMENA_HUB_KEY": key})
        assert run.exit_code == code, run.output
        return run.output

    def device(self, name: str, **values: Any) -> None:
        """A device that was heard just now."""
        heard = {"device": name, "state": "online", "seen_at": time.time(), "lease_s": 90.0, "models": {}}
        with writing(self.engine) as connection:
            connection.execute(insert(devices).values({**heard, **values}))

    def event(
        self, device: str, seq: int, data: Any, *, kind: str = "face", stream: str = "door", at: float | None = None, **values: Any
    ) -> None:
        """An event as the ingest stores it."""
        moment = time.time() if at is None else at
        row = {
            "device": device,
            "spool": "00112233445566aa",
            "seq": seq,
            "stream": stream,
            "kind": kind,
            "at": moment,
            "captured_at": moment,
        }
        row |= {"mono_ns": seq, "clock": "synced", "received_at": moment, "payload": json.dumps({"data": data}).encode()}
        with writing(self.engine) as connection:
            connection.execute(insert(events).values({**row, **values}))
