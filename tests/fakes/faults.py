"""Everything that can go wrong between a device and the hub's store, one after another on one site that is always under load.

After each the books are made up: produced = stored unique + declared lost + pending, and 0 unexplained. A hub restored from a back-up has
forgotten what came since, and says which numbers those are.
"""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.bad_link import Badness
from tests.fakes.fault_site import FaultSite
from tests.fakes.hostile import hostile
from tests.fakes.postgres import Postgres
from tests.fakes.small_disk import fill
from tests.waiting import wait_until

YEAR_S = 365 * 86400


@dataclass(frozen=True)
class Amount:
    """How much of each fault."""

    kills: int
    away_s: float
    bad_s: float
    flood: int
    hostile: int


SHORT = Amount(kills=2, away_s=4, bad_s=4, flood=3000, hostile=100)
FULL = Amount(kills=30, away_s=120, bad_s=40, flood=20_000, hostile=5000)


@dataclass
class Round:
    """Who suffers, how much, and by which chance; `notes` are for the table."""

    site: FaultSite
    amount: Amount
    disk: Path
    chance: random.Random
    notes: list[str] = field(default_factory=list)

    def moment(self, longest_s: float = 0.5) -> None:
        """A random one: these pauses are the randomness itself."""
        time.sleep(self.chance.uniform(0, longest_s))


def nothing(_: Round) -> None:
    """For comparison."""


def _killed(now: Round, *steps: Callable[[], None]) -> None:
    for _ in range(now.amount.kills):
        now.site.more_stored(3)
        now.moment()
        for step in steps:
            step()
    now.notes.append(f"{now.amount.kills} kills")


def broker_killed(now: Round) -> None:
    _killed(now, now.site.kill_broker)


def hub_killed(now: Round) -> None:
    _killed(now, now.site.hub.kill, now.site.hub.start)


def agent_killed(now: Round) -> None:
    _killed(now, now.site.agent.kill, now.site.agent.start)


def database_away(now: Round) -> None:
    """Somebody else holds it, so that nothing can be written."""
    with closing(sqlite3.connect(now.site.hub.file, timeout=60, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        _pass(now, now.amount.away_s)
        other.execute("ROLLBACK")
    now.notes.append(f"{now.amount.away_s:g} s")


def disk_full(now: Round) -> None:
    filler = fill(now.disk)
    _pass(now, now.amount.away_s)
    filler.unlink()
    now.notes.append(f"{now.amount.away_s:g} s")


def lossy_link(now: Round) -> None:
    slow = Badness(delay_s=(0.02, 0.4), bandwidth=20_000)
    with now.site.link.bad(slow):
        end = time.monotonic() + now.amount.bad_s
        while time.monotonic() < end:
            now.moment(1.0)
            now.site.link.reset()
            now.notes.append("reset")
    with now.site.link.bad(Badness(stalled=True)):
        _pass(now, now.amount.bad_s / 2)
    now.notes[:] = [f"{len(now.notes)} resets, 20 kB/s, 20 to 400 ms, silent for {now.amount.bad_s / 2:g} s"]


def device_gone(now: Round) -> None:
    """Without a goodbye: the broker speaks its will. And without any word: it is online until its lease ends, or it is on again."""
    device = now.site.names[0]
    state = f"SELECT state FROM devices WHERE device = '{device}'"
    now.site.command(device, "misbehave", fault="offline", for_s=6)
    wait_until(lambda: now.site.hub.sql(state) == [("offline",)], 30, "the will")
    wait_until(lambda: now.site.hub.sql(state) == [("online",)], 30, "the device to be back")
    session = f"SELECT session, state FROM devices WHERE device = '{device}'"
    before = now.site.hub.sql(session)
    now.site.command(device, "misbehave", fault="off", for_s=1)
    wait_until(lambda: now.site.hub.sql(session) != before, 30, "the device to be on again")
    assert now.site.hub.sql(session)[0][1] == "online", "nobody has told the broker that it was off"
    now.notes.append("its will, and its birth 6 s later; switched off, and on a second later")


def twice_and_out_of_order(now: Round) -> None:
    bad = Badness(twice=0.1, overtaken=0.1)
    with now.site.link.bad(bad), now.site.hub_link.bad(bad):
        end = time.monotonic() + now.amount.bad_s
        wait_until(lambda: time.monotonic() > end, now.amount.bad_s, "the time to pass")
        now.site.more_stored(20)
    now.notes.append("10 % of the packets in each direction, at devices and hub")


def wrong_clocks(now: Round) -> None:
    """In the store both devices' events are to stand where they belong, once the clocks are right again."""
    began = time.time()
    devices = now.site.names[:2]
    for device, wrong in zip(devices, ({}, {"by_s": YEAR_S}), strict=True):
        now.site.command(device, "misbehave", fault="clock", for_s=3600, **wrong)
        now.site.command(device, "misbehave", fault="storm", count=5)
        unsynced = f"SELECT count(*) FROM events WHERE clock = 'unsynced' AND device = '{device}'"
        wait_until(lambda: now.site.hub.sql(unsynced)[0][0] >= 5, 30, "events with a wrong time")  # noqa: B023
        now.site.command(device, "behave")
    astray = f"SELECT count(*) FROM events WHERE clock = 'unsynced' AND NOT at BETWEEN {began - 60} AND {began + 3600}"
    wait_until(lambda: now.site.hub.sql(astray) == [(0,)], 30, "the events to be put where they belong")
    now.notes.append("1970 and a year ahead, put right by clock records")


def flood(now: Round) -> None:
    """While the hub is away; the outbox of the device has 1 MiB for events."""
    site, device = now.site, now.site.names[-1]
    site.hub.stop()
    goal = site.produced()[device] + now.amount.flood
    site.command(device, "misbehave", fault="storm", count=now.amount.flood)
    wait_until(lambda: goal in site.pending(device), 60, "the flood")  # it is written down as produced before it is handed over
    site.hub.start()
    now.notes.append(f"{now.amount.flood} events at once from one device, the hub away, 1 MiB of room")


def hostile_payloads(now: Round) -> None:
    """Malformed ones, and strings that mean something to SQL, HTML, terminals and file systems."""
    with now.site.peer() as evil:
        for topic, payload in hostile(now.chance.randrange(1 << 30), now.amount.hostile):
            evil.client.publish(topic, payload, 1)
        evil.client.publish("almena/1/evil-1/up/event/cam/count", b"the last", 1).wait_for_publish(60)
    last = "SELECT count(*) FROM dead_letters WHERE payload = X'746865206c617374'"
    wait_until(lambda: now.site.hub.sql(last) == [(1,)], 60, "the hub to have read all of it")
    letters = now.site.hub.sql("SELECT count(*), min(length(reason)) FROM dead_letters")[0]
    assert letters[1] > 0, "a dead letter without a reason"
    now.notes.append(f"{now.amount.hostile} messages, {letters[0]} dead letters")


def hub_restored(now: Round) -> None:
    """From a back-up, after which it had taken more; and the devices start again before and after that, each time in a new spool."""
    site = now.site
    settings, saved = now.disk / "hub.yaml", now.disk / "saved.gz"
    settings.write_text(f"store: sqlite:///{site.hub.file}\n")
    almena = [sys.executable, "-m", "agent.cli", "hub", "-c", str(settings)]
    subprocess.run([*almena, "backup", str(saved)], check=True, timeout=120, capture_output=True)
    for _ in range(2):
        site.more_stored(20)
        site.reboot()
    site.more_stored(20)
    site.hub.stop()
    for file in site.hub.file.parent.glob(f"{site.hub.file.name}*"):
        file.unlink()
    subprocess.run([*almena, "restore", str(saved)], check=True, timeout=120, capture_output=True)
    site.reboot()
    site.hub.start()
    now.notes.append(f"{site.reboots} reboots")


def server_stopped(postgres: Postgres) -> Callable[[Round], None]:
    """PostgreSQL itself."""

    def stopped(now: Round) -> None:
        postgres.stop()
        _pass(now, now.amount.away_s)
        postgres.start()
        now.notes.append(f"{now.amount.away_s:g} s")

    return stopped


FAULTS: dict[str, Callable[[Round], None]] = {
    "none": nothing,
    "broker killed": broker_killed,
    "hub killed": hub_killed,
    "agent killed": agent_killed,
    "database held": database_away,
    "hub's disk full": disk_full,
    "link slow, reset, silent": lossy_link,
    "device gone": device_gone,
    "duplicates, reordering": twice_and_out_of_order,
    "clocks wrong": wrong_clocks,
    "device floods": flood,
    "hostile payloads": hostile_payloads,
    "hub restored": hub_restored,
}


def run(
    site: FaultSite,
    amount: Amount,
    disk: Path,
    seed: int,
    tell: Callable[[str], None],
    faults: Mapping[str, Callable[[Round], None]] = FAULTS,
) -> None:
    """One after another; tells the table, line by line."""
    names = f"{'fault':25} {'produced':>9} {'stored':>8} {'lost':>7} {'pending':>7} {'missing':>7} {'unexplained':>11}"
    tell(f"{names} {'twice':>6} {'after':>7}")
    chance = random.Random(seed)
    for name, fault in faults.items():
        now = Round(site, amount, disk, chance)
        before, declared = site.restarts, site.declared()
        site.more_stored(5)
        fault(now)
        books, twice, seconds = site.settled(forgetful=fault is hub_restored)
        if site.restarts > before:
            now.notes.append(f"the hub was started again {site.restarts - before} times")
        declared = site.declared() - declared  # some of them had been published before, and are stored
        assert (declared > 0) == (fault is flood), f"{name}: {declared} events were declared as lost"
        assert (books.missing > 0) == (fault is hub_restored), f"{name}: the hub misses {books.missing} events"
        figures = f"{books.produced:9} {books.stored:8} {books.lost:7} {books.pending:7} {books.missing:7} {books.unexplained:11}"
        tell(f"{name:25} {figures} {twice:6} {seconds:5.1f} s  {'; '.join(now.notes)}")


def _pass(now: Round, seconds: float) -> None:
    """Time, in which a hub that gives up is started again."""
    end = time.monotonic() + seconds

    def over() -> bool:
        now.site.supervise()
        return time.monotonic() > end

    wait_until(over, seconds + 30, "the time to pass")
