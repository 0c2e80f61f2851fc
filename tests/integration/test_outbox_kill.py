"""`kill -9` while events are appended and settled: what append returned for is there exactly once, and nothing is declared as lost."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from agent.outbox import Outbox
from agent.settings import OutboxSettings
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
LANES = ("event", "audit", "telemetry")


def kill_and_compare(folder: Path, seeds: range) -> None:
    chance = random.Random(seeds.start)
    expected: dict[str, list[str]] = {lane: [] for lane in LANES}
    taken: dict[str, list[str]] = {lane: [] for lane in LANES}
    with Outbox.open(folder, "dev", OutboxSettings()) as hub:
        for seed in seeds:
            for lane, labels in run_and_kill(folder, seed, chance, hub, taken):
                expected[lane] += labels
            check_books(hub)
    with Outbox.open(folder, "dev", OutboxSettings()) as hub:
        take(hub, taken, 1_000_000)
        for lane in LANES:
            assert len(taken[lane]) == len(set(taken[lane])), "stored twice"
            assert set(expected[lane]) <= set(taken[lane]), "lost"
        check_books(hub)
        assert hub.pending("loss", 10) == []


def run_and_kill(folder: Path, seed: int, chance: random.Random, hub: Outbox, taken: dict[str, list[str]]) -> list[tuple[str, list[str]]]:
    """What the writer printed before it was killed. The hub takes rows meanwhile."""
    command = [sys.executable, "-m", "tests.fakes.outbox_writer", str(folder), str(seed)]
    log = folder.parent / f"{seed}.txt"
    with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, stdout=out) as writer:
        try:
            lines = chance.randrange(1, 30)
            wait_until(lambda: take(hub, taken, 200) or log.read_bytes().count(b"\n") >= lines or None, 60, "the writer's first rows")
            wait_until(lambda: log.read_bytes().count(b"\n") >= lines, 60, f"{lines} lines")
        finally:
            writer.kill()
    whole = log.read_text().rpartition("\n")[0]
    return [(words[0], words[1:]) for words in map(str.split, whole.splitlines())]


def take(hub: Outbox, taken: dict[str, list[str]], limit: int) -> int:
    """Receive some rows like a hub does, and settle them."""
    count = 0
    for lane in LANES:
        rows = hub.pending(lane, limit)
        taken[lane] += [json.loads(row.payload)["data"]["label"] for row in rows]
        for spool in {row.spool for row in rows}:
            count += hub.settle(lane, spool, ranges=[(row.seq, row.seq) for row in rows if row.spool == spool])
    return count


def check_books(hub: Outbox) -> None:
    for lane, books in hub.stats().items():
        assert books["produced"] == books["settled"] + books["lost"] + books["pending"], lane
        assert books["lost"] == 0, lane


def test_ten_kills(tmp_path: Path) -> None:
    kill_and_compare(tmp_path / "outbox", range(10))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_kills(tmp_path: Path) -> None:
    kill_and_compare(tmp_path / "outbox", range(100, 100 + int(os.environ.get("ALMENA_SOAK_KILLS", "100"))))
