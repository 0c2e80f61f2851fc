"""Promise 1 under `kill -9`: produced = stored unique + declared lost + pending, with nothing lost.

Produced is known from the photographs that were taken. Stored is counted twice: with SQL alone, in the file that the hub wrote, and by an
observer at the broker that shares no code with agent and hub. Half of the kills meet processes that stand alone, half the children of
`almena run`, which starts them again.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.fakes.photographs import Album
from tests.fakes.whole_site import Site
from tests.waiting import wait_until

PERSONS = (0, 1, 2)
LONGEST_DELAY_S = 1.5
LONGEST_PAUSE_S = 0.2
"""Between two photographs: now faster, now slower than they are processed."""


@pytest.fixture
def site(tmp_path: Path, models_dir: Path, engines_dir: Path) -> Iterator[Site]:
    site = Site(tmp_path, models_dir, engines_dir)
    yield site
    site.close()


@pytest.mark.timeout(600)
def test_ten_random_kills_lose_nothing(site: Site, portraits: Mapping[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    survive(site, Chance(Album(site.inbox, portraits, PERSONS), seed=20), kills=10, capsys=capsys)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_hundred_random_kills_lose_nothing(site: Site, portraits: Mapping[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    kills = int(os.environ.get("ALMENA_SOAK_KILLS", "100"))
    seed = int(os.environ.get("ALMENA_SOAK_SEED", random.SystemRandom().randrange(1 << 30)))
    survive(site, Chance(Album(site.inbox, portraits, PERSONS), seed), kills, capsys)


class Chance:
    """Photographs at random moments."""

    def __init__(self, album: Album, seed: int) -> None:
        self.album, self.seed = album, seed
        self.random = random.Random(seed)

    def take_for(self, seconds: float) -> None:
        """Take photographs until a moment that has nothing to do with what any process does: these pauses are the randomness itself."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.album.take()
            time.sleep(max(0.0, min(self.random.uniform(0, LONGEST_PAUSE_S), left)))


def survive(site: Site, chance: Chance, kills: int, capsys: pytest.CaptureFixture[str]) -> None:
    album, began = chance.album, time.monotonic()
    victims = [("vision", "uplink", "hub")[number % 3] for number in range(kills)]
    chance.random.shuffle(victims)
    for number, victim in enumerate(victims):
        if number == kills // 2:
            site.supervise()
        if chance.random.random() < 0.5:  # the others may hit what the last kill made start anew
            before = album.processed()
            album.take()
            wait_until(lambda: album.processed() > before, 120, "the agent to work")  # noqa: B023
        chance.take_for(chance.random.uniform(0, LONGEST_DELAY_S))
        site.kill(victim)
    wait_until(lambda: album.processed() == album.taken, 180, "all pictures to be processed")
    settled(site, album, f"seed {chance.seed}")
    with capsys.disabled():
        print(
            f"\n{kills} kills ({', '.join(f'{name} {victims.count(name)}' for name in sorted(set(victims)))}; half under `almena run`), "
            f"{album.taken} pictures: produced {album.faces}, stored {site.faces()}, observed {len(site.observer.faces())}, "
            f"declared lost 0, pending 0 (seed {chance.seed}, {time.monotonic() - began:.0f} s)"
        )


def settled(site: Site, album: Album, seed: str) -> None:
    """Everything that was produced is stored once, and was heard by the observer; nothing is lost, pending, or missing in between."""
    produced = album.faces
    wait_until(lambda: site.faces() >= produced, 60, f"{produced} faces to be stored ({seed})")
    wait_until(lambda: site.pending() == 0, 60, "nothing to be pending but telemetry")
    rows = [row for row in site.stored() if row["lane"] == "event"]
    keys = [(row["spool"], row["seq"]) for row in rows]
    tracks = [row["data"]["track"] for row in rows if row["kind"] == "face"]  # type: ignore[index]
    assert len(keys) == len(set(keys))
    assert len(tracks) == len(set(tracks)) == produced, seed
    assert not [row for row in site.stored() if row["lane"] == "loss"], seed
    for spool in {row["spool"] for row in rows}:
        numbers = sorted(int(str(row["seq"])) for row in rows if row["spool"] == spool)
        assert numbers == list(range(numbers[0], numbers[-1] + 1)), f"{seed}: {spool} has gaps"
    wait_until(lambda: len(site.observer.faces()) >= produced, 20, f"{produced} faces to be observed ({seed})")
    assert len(site.observer.faces()) == produced, seed
    wait_until(
        lambda: set(site.observer.events()) == {row["id"] for row in site.stored() if row["lane"] == "event"}, 20, f"the same ({seed})"
    )
