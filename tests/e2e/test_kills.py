"""Promise 1 under `kill -9`: produced = stored unique + declared lost + pending, with nothing lost.

Produced is known from the photographs that were taken. Stored is counted with SQL alone, in the file that the hub wrote.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.fakes.photographs import Photographer
from tests.fakes.whole_site import Site
from tests.waiting import wait_until

PICTURES_PER_KILL = 6


@pytest.fixture
def site(tmp_path: Path, models_dir: Path, engines_dir: Path) -> Iterator[Site]:
    site = Site(tmp_path, models_dir, engines_dir)
    yield site
    site.close()


def test_ten_random_kills_lose_nothing(site: Site, portraits: Mapping[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    survive(site, portraits, kills=10, seed=20, capsys=capsys)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_random_kills_lose_nothing(site: Site, portraits: Mapping[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    kills, seed = int(os.environ.get("ALMENA_SOAK_KILLS", "100")), random.SystemRandom().randrange(1 << 30)
    survive(site, portraits, kills, seed, capsys)


def survive(site: Site, portraits: Mapping[str, Path], kills: int, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
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
    wait_until(lambda: site.faces() >= expected, 60, f"{expected} faces to be stored, of which {site.faces()} are (seed {seed})")
    wait_until(lambda: site.pending() == 0, 60, "nothing to be pending but telemetry")

    rows = [row for row in site.stored() if row["lane"] == "event"]
    keys = [(row["spool"], row["seq"]) for row in rows]
    tracks = [row["data"]["track"] for row in rows if row["kind"] == "face"]  # type: ignore[index]
    assert len(keys) == len(set(keys))
    assert len(tracks) == len(set(tracks)) == expected, f"seed {seed}"
    assert not [row for row in site.stored() if row["lane"] == "loss"], f"seed {seed}"
    for spool in {row["spool"] for row in rows}:
        numbers = sorted(int(str(row["seq"])) for row in rows if row["spool"] == spool)
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), f"seed {seed}: {spool} has gaps"
    with capsys.disabled():
        print(
            f"\n{kills} kills, {taken} pictures: produced {expected}, stored {len(set(tracks))}, declared lost 0, pending 0 (seed {seed})"
        )
