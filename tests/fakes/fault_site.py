"""Broker, hub and simulated devices, each a process that can be killed, behind a link that can be bad; and the books of who looks on.

The books share no code with agent and hub: what was produced stands in the simulator's file, stored and lost are read from the hub's
database by SQL and `json`, pending from the devices' outboxes, and mosquitto's own client tells what was on the wire.
"""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml

from tests.fakes.bad_link import BadLink
from tests.fakes.fleet import Hub, Peer, Process, peer
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.observer import Observer
from tests.waiting import wait_until

SITE = "sim"


@dataclass(frozen=True)
class Books:
    """Of all devices, up to a moment. `lost` is what was declared, `missing` what the hub says that it misses; `unexplained` is what nobody
    can account for."""

    produced: int
    stored: int
    lost: int
    pending: int
    missing: int
    unexplained: int


class HubOnPostgres(Hub):
    """The same on a PostgreSQL that may be away."""

    def __init__(self, folder: Path, port: int, url: str) -> None:
        super().__init__(folder, port, "5", "--store", url)
        self._url = url

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query; none while there is no such table, or no server."""
        try:
            with psycopg.connect(self._url, connect_timeout=10) as connection:
                return connection.execute(query).fetchall()  # type: ignore[arg-type]
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
            return []


class FaultSite:
    """`hub_folder` is where the hub's store lies, unless `postgres` names one; `version` is that of MQTT, for devices and hub; `more` goes
    into the scenario. Without `links` all meet at the broker itself."""

    def __init__(
        self,
        folder: Path,
        devices: int,
        seed: int,
        hub_folder: Path,
        *,
        links: bool = True,
        postgres: str = "",
        version: str = "5",
        **more: Any,
    ) -> None:
        self.names = [f"{SITE}-{number}" for number in range(1, devices + 1)]
        self.broker = Mosquitto(folder / "broker").start()
        self.link = BadLink(self.broker.port, seed).__enter__()
        self.hub_link = BadLink(self.broker.port, seed + 1).__enter__()
        self.observer = Observer(folder, self.broker.port, ["almena/1/+/up/event/door/#"])
        at = self.hub_link.port if links else self.broker.port
        self.hub = HubOnPostgres(hub_folder, at, postgres) if postgres else Hub(hub_folder, at, version)
        self._state = folder / "simulated"
        scenario = folder / "scenario.yaml"
        mqtt = {"port": self.link.port if links else self.broker.port, "keepalive_s": 15, "version": version}
        busy = {"telemetry_s": 2, "events_per_minute": 120, "event_bytes": 1024 * 1024, "haste": 20, "seed": seed, **more}
        settings = {"mqtt": mqtt, "state_dir": str(self._state), "sites": {SITE: devices}, **busy}
        scenario.write_text(yaml.safe_dump(settings))
        self._boot_id = folder / "boot_id"
        self._boot_id.write_text(str(uuid.uuid4()))
        self.agent = Process(folder, "tests.fakes.rebooted", str(self._boot_id), "agent.cli", "simulate", str(scenario), "--json")
        self.reboots = 0
        self.restarts = 0
        self.broker_kills = 0
        self.hub.start()
        self.agent.start()

    def close(self) -> None:
        """End everything; agent and hub must not have ended by themselves."""
        try:
            assert self.agent.stop() == 0, self.agent.log()
            assert self.hub.stop() == 0, self.hub.log()
        finally:
            self.observer.close()
            self.link.__exit__()
            self.hub_link.__exit__()
            self.broker.stop()

    def kill_broker(self) -> None:
        """Without a chance to save anything, and start it again."""
        self.broker_kills += 1
        self.broker.restart(kill=True)
        self.observer.until_connected()

    def supervise(self) -> None:
        """Start the hub again if it has ended, as systemd would."""
        if self.hub.ended:
            self.restarts += 1
            self.hub.start()

    def reboot(self, *, new_disks: bool = False) -> None:
        """The devices lose their power and start again; with new disks their outboxes count from 1 again."""
        self.agent.kill()
        for name in self.names if new_disks else ():
            shutil.rmtree(self._state / name)
        self.reboots += 1
        self._boot_id.write_text(str(uuid.uuid4()))
        self.agent.start()

    def command(self, device: str, name: str, **args: Any) -> None:
        """Have a device do something, over the broker."""
        with self.peer() as one:
            number = f"c-{time.monotonic_ns()}"
            topic = f"almena/1/{device}/up/reply/{number}"
            request = {"v": 1, "id": number, "name": name, "args": args, "reply_to": topic, "expires_at": time.time() + 120}
            one.client.subscribe(topic, 1)
            asked = -math.inf

            def answers() -> list[Any]:
                nonlocal asked
                if time.monotonic() - asked > 1:  # one that is just connecting does not hear it; a repeat is answered, and not carried out
                    asked = time.monotonic()
                    one.say(f"almena/1/{device}/down/command/{name}", request)
                return one.on(number)

            reply = wait_until(answers, 20, f"{device} to answer")[0]
            assert reply.data["ok"], reply.data

    @contextmanager
    def peer(self) -> Iterator[Peer]:
        """Somebody else at the broker, without a fault between."""
        with peer(self.broker.port, name="operator") as one:
            yield one

    def produced(self) -> dict[str, int]:
        """Device to the number of its last event."""
        last: dict[str, int] = {}
        path = self._state / "produced.txt"
        for line in path.read_text().splitlines() if path.exists() else []:
            device, _, number = line.split()
            last[device] = max(last.get(device, 0), int(number))
        return last

    def stored(self) -> int:
        """Events at the hub."""
        return self.hub.count()

    def more_stored(self, count: int, patience_s: float = 300) -> None:
        """Wait for so many more."""
        goal = self.stored() + count
        wait_until(lambda: self.stored() >= goal, patience_s, f"{count} more events at the hub")

    def books(self, upto: dict[str, int]) -> Books:
        """Of the events 1 to `upto` of each device. Its numbers are those of its events, over all its spools: each boot begins one."""
        pending = {device: self.pending(device) for device in upto}
        rows, losses = defaultdict(list), self._losses()
        for device, spool, seq, payload in self.hub.sql("SELECT device, spool, seq, payload FROM events"):
            rows[device].append((spool, seq, json.loads(payload)["data"].get("n")))
        absent = self.missing()
        total = Books(0, 0, 0, 0, 0, 0)
        for device, last in upto.items():
            own = rows[device]
            assert len({spool for spool, _, _ in own}) <= 1 + self.reboots, f"{device} has begun a new spool"
            assert all(seq == number for _, seq, number in own), f"{device}: events changed their places"
            assert len(own) == len({number for _, _, number in own}), f"{device}: an event is stored twice"
            kept = {seq for _, seq, _ in own if seq <= last}
            lost = {seq for seq in _declared(losses, device) if seq <= last} - kept
            waiting = {seq for seq in pending[device] if seq <= last} - kept - lost
            missing = {seq for seq in absent[device] if seq <= last} - waiting
            assert not missing & (kept | lost), f"{device}: the hub misses what it has"
            unexplained = last - len(kept | lost | waiting | missing)
            mine = (last, len(kept), len(lost), len(waiting), len(missing), unexplained)
            total = Books(*(a + b for a, b in zip(_values(total), mine, strict=True)))
        return total

    def settled(self, patience_s: float = 300, *, forgetful: bool = False) -> tuple[Books, int, float]:
        """All that was produced until now is stored or declared as lost, or missing at a `forgetful` hub: the books, how many events the
        observer has heard more than once, and after how many seconds."""
        began, upto = time.monotonic(), self.produced()

        def over() -> Books | None:
            self.supervise()
            books = self.books(upto)
            missing = 0 if forgetful else books.missing  # of any other hub it is only until the loss is told
            return books if books.pending == books.unexplained == missing == 0 else None

        try:
            books = wait_until(over, patience_s, "everything to be settled")
        except AssertionError:
            raise AssertionError(f"not settled: {self.books(upto)}\n{self.hub.log()[-2000:]}\n{self.agent.log()[-2000:]}") from None
        assert books is not None
        return books, self._heard(upto), time.monotonic() - began

    def _heard(self, upto: dict[str, int]) -> int:
        """Everything that the observer has heard is stored or declared as lost. Returns how many events it has heard more than once."""
        heard = self.observer.events()
        known = {f"{device}/{spool}/{seq}" for device, spool, seq in self.hub.sql("SELECT device, spool, seq FROM events")}
        for record in self._losses():
            device = record["id"].split("/")[0]
            known |= {f"{device}/{record['data']['spool']}/{seq}" for seq in _declared([record], device)}
        missing = self.missing()
        old = {one for one in heard if int(one.split("/")[2]) <= upto.get(one.split("/")[0], 0)}
        astray = {one for one in old - known if int(one.split("/")[2]) not in missing[one.split("/")[0]]}
        assert not astray, "events were heard that are neither stored nor declared as lost, and that the hub does not miss"
        return sum(count > 1 for count in heard.values())

    def declared(self) -> int:
        """How many events the devices have declared as lost."""
        return sum(len(_declared(self._losses(), device)) for device in self.names)

    def _losses(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for (payload,) in self.hub.sql("SELECT payload FROM records WHERE lane = 'loss'")]

    def missing(self) -> dict[str, set[int]]:
        """Numbers of events that the hub says it misses, by device."""
        found: dict[str, set[int]] = defaultdict(set)
        query = "SELECT device, ranges, ends, missing FROM spools WHERE missing > 0 AND lane = 'event'"
        for device, said, ends, count in self.hub.sql(query):
            here = {seq for low, high in json.loads(said) for seq in range(low, high + 1)}
            absent = set(range(min(here), max(max(here), ends or 0) + 1)) - here
            assert len(absent) == count
            found[device] |= absent
        return found

    def pending(self, device: str) -> set[int]:
        """Numbers of unsettled events in its outbox."""
        path = self._state / device / "outbox" / "outbox.db"
        if not path.exists():
            return set()
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
            return {seq for (seq,) in database.execute("SELECT seq FROM rows WHERE state = 0 AND lane = 'event'")}


def _values(books: Books) -> tuple[int, ...]:
    return books.produced, books.stored, books.lost, books.pending, books.missing, books.unexplained


def _declared(losses: list[dict[str, Any]], device: str) -> set[int]:
    """Numbers of events that a device has declared as lost."""
    mine = [record["data"] for record in losses if record["id"].startswith(f"{device}/") and record["data"]["lane"] == "event"]
    return {seq for data in mine for first, last in data["ranges"] for seq in range(first, last + 1)}
