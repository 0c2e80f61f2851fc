"""Promise 1 under `kill -9`: produced = stored unique + declared lost + pending, with nothing lost.

Produced is known from the photographs that were taken. Stored is counted with SQL alone, in the file that the hub wrote.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from tests.fakes.mosquitto import Mosquitto
from tests.fakes.photographs import Photographer
from tests.waiting import wait_until

PICTURES_PER_KILL = 6


class Site:
    """Broker, hub and one agent, each a process of its own that can be killed and started again."""

    def __init__(self, folder: Path, models: Path) -> None:
        self.broker = Mosquitto(folder / "broker").start()
        self.inbox, self.hub_file = folder / "inbox", folder / "hub.sqlite"
        self.inbox.mkdir()
        self.state = folder / "state"
        config = folder / "almena.yaml"
        source = {"type": "folder", "path": str(self.inbox), "watch": True}
        settings = {
            "device": {"name": "kill-test"},
            "state_dir": str(self.state),
            "engines": {"models_dir": str(models)},
            "streams": [{"name": "photos", "source": source, "tasks": [{"type": "faces"}]}],
            "mqtt": {"port": self.broker.port, "delivery": "hub"},
            "web": {"enabled": False},
            "telemetry": {"period_s": 1},
        }
        config.write_text(yaml.safe_dump(settings))
        hub = ["fleet.ingest", "--store", str(self.hub_file), "--port", str(self.broker.port)]
        self._arguments = {"vision": ["agent.vision", str(config)], "uplink": ["agent.uplink", str(config)], "hub": hub}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in self._arguments:
            self.start(name)

    def start(self, name: str) -> None:
        self._processes[name] = subprocess.Popen([sys.executable, "-m", *self._arguments[name]])

    def kill(self, name: str) -> None:
        process = self._processes[name]
        assert process.poll() is None, f"{name} had ended by itself"
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.start(name)

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait(20)
        self.broker.stop()

    def stored(self) -> list[dict[str, object]]:
        """Every row that the hub holds, by SQL alone."""
        if not self.hub_file.exists():
            return []
        with closing(sqlite3.connect(f"file:{self.hub_file}?mode=ro", uri=True, timeout=10)) as database:
            rows = database.execute("SELECT spool, seq, lane, payload FROM rows").fetchall()
        return [{"spool": spool, "seq": seq, "lane": lane, **json.loads(payload)} for spool, seq, lane, payload in rows]


@pytest.fixture
def site(tmp_path: Path, models_dir: Path) -> Iterator[Site]:
    site = Site(tmp_path, models_dir)
    yield site
    site.close()


def test_ten_random_kills_lose_nothing(site: Site, portraits: Mapping[str, Path]) -> None:
    survive(site, portraits, kills=10, seed=20)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_random_kills_lose_nothing(site: Site, portraits: Mapping[str, Path]) -> None:
    survive(site, portraits, kills=int(os.environ.get("ALMENA_SOAK_KILLS", "100")), seed=random.SystemRandom().randrange(1 << 30))


def survive(site: Site, portraits: Mapping[str, Path], kills: int, seed: int) -> None:
    chance, photographer = random.Random(seed), Photographer(portraits)
    expected = taken = 0

    def take() -> None:
        nonlocal expected, taken
        persons = taken % 3
        photographer.take(taken, persons, site.inbox / f"{taken:05d}.jpg")
        taken, expected = taken + 1, expected + persons

    def processed() -> int:
        return taken - len(list(site.inbox.glob("*.jpg")))

    take()
    wait_until(lambda: processed() == 1, 60, "the first picture to be processed")
    for number in range(kills):
        target = taken + chance.randint(1, PICTURES_PER_KILL)
        for _ in range(PICTURES_PER_KILL):
            take()
        wait_until(lambda: processed() >= target, 60, f"picture {target} to be processed")  # noqa: B023
        site.kill(("vision", "uplink", "hub")[number % 3])
    wait_until(lambda: processed() == taken, 120, "all pictures to be processed")
    wait_until(lambda: faces(site) >= expected, 60, f"{expected} faces to be stored, of which {faces(site)} are (seed {seed})")
    wait_until(lambda: pending(site) == 0, 60, "nothing to be pending but telemetry")

    rows = [row for row in site.stored() if row["lane"] == "event"]
    keys = [(row["spool"], row["seq"]) for row in rows]
    tracks = [row["data"]["track"] for row in rows if row["kind"] == "face"]  # type: ignore[index]
    assert len(keys) == len(set(keys))
    assert len(tracks) == len(set(tracks)) == expected, f"seed {seed}"
    assert not [row for row in site.stored() if row["lane"] == "loss"], f"seed {seed}"
    for spool in {row["spool"] for row in rows}:
        numbers = sorted(int(str(row["seq"])) for row in rows if row["spool"] == spool)
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), f"seed {seed}: {spool} has gaps"
    print(f"{kills} kills, {taken} pictures: produced {expected}, stored {len(tracks)}, declared lost 0, pending 0 (seed {seed})")


def faces(site: Site) -> int:
    return sum(row["kind"] == "face" for row in site.stored())


def pending(site: Site) -> int:
    """Event rows that the device still holds unsettled, by SQL alone."""
    with closing(sqlite3.connect(f"file:{site.state / 'outbox' / 'outbox.db'}?mode=ro", uri=True, timeout=10)) as database:
        return int(database.execute("SELECT COUNT(*) FROM rows WHERE state = 0 AND lane = 'event'").fetchone()[0])
