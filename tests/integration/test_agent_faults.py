"""Faults under a running agent: real processes, a real broker, a disk that is really full, files that are really damaged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.fakes import small_disk as disk
from tests.fakes.photographs import Photographer
from tests.fakes.whole_site import Site
from tests.waiting import wait_until


class Album:
    """Takes pictures of one person each, so that produced is known."""

    def __init__(self, site: Site, portraits: Mapping[str, Path]) -> None:
        self.site, self.taken = site, 0
        self._photographer = Photographer(portraits)

    def take(self, count: int) -> None:
        for _ in range(count):
            self._photographer.take(self.taken, 1, self.site.inbox / f"{self.taken:05d}.jpg")
            self.taken += 1

    def processed(self) -> int:
        return self.taken - len(list(self.site.inbox.glob("*.jpg")))

    def until_stored(self) -> None:
        wait_until(lambda: self.site.faces() >= self.taken, 60, f"{self.taken} faces at the hub")
        wait_until(lambda: self.site.pending() == 0, 30, "nothing to be pending")
        tracks = [row["data"]["track"] for row in self.site.stored() if row["kind"] == "face"]  # type: ignore[index]
        assert len(tracks) == len(set(tracks)) == self.taken


def losses(site: Site) -> list[tuple[str, int]]:
    """Reason and count of what the hub was told is lost of the event lane."""
    told = [row["data"] for row in site.stored() if row["lane"] == "loss"]
    return [(data["reason"], data["count"]) for data in told if data["lane"] == "event"]  # type: ignore[index, call-overload]


def test_full_disk_under_a_running_agent(tmp_path: Path, models_dir: Path, engines_dir: Path, portraits: Mapping[str, Path]) -> None:
    with disk.small_disk(8) as folder:
        (folder / "outbox").mkdir()
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "outbox").symlink_to(folder / "outbox")
        site = Site(tmp_path, models_dir, engines_dir)
        try:
            album = Album(site, portraits)
            album.take(2)
            album.until_stored()
            site.broker.stop()
            filler = disk.fill(folder)
            album.take(6)
            wait_until(lambda: not (site.state / "outbox" / "reserve").exists(), 30, "the reserve to be given up")
            wait_until(lambda: album.processed() < 8, 5, "a picture to wait for room")
            site.kill("uplink")
            filler.unlink()
            wait_until(lambda: album.processed() == 8, 30, "every picture to be processed")
            for name in ("vision", "uplink"):
                site.running(name)
            site.broker.start()
            album.until_stored()
            assert not losses(site), "photographs are kept, so nothing need be lost"
        finally:
            site.close()


@pytest.fixture
def site(tmp_path: Path, models_dir: Path, engines_dir: Path) -> Iterator[Site]:
    site = Site(tmp_path, models_dir, engines_dir)
    yield site
    site.close()


def test_outbox_damaged_between_two_runs(site: Site, portraits: Mapping[str, Path]) -> None:
    album = Album(site, portraits)
    album.take(3)
    album.until_stored()
    site.broker.stop()
    album.take(5)
    wait_until(lambda: album.processed() == 8, 30, "five pictures without a broker")
    for name in ("vision", "uplink"):
        site.stop(name)
    with (site.state / "outbox" / "outbox.db").open("r+b") as file:
        file.write(os.urandom(4096))
    for name in ("vision", "uplink"):
        site.start(name)
    site.broker.start()
    album.take(2)
    wait_until(lambda: album.processed() == 10, 60, "two more pictures")
    declared = wait_until(lambda: sum(count for _, count in losses(site)), 60, "the loss to be declared")
    wait_until(lambda: site.faces() == 5 and site.pending() == 0, 30, "what came afterwards")
    others = sum(row["lane"] == "event" and row["kind"] != "face" for row in site.stored())
    spools = {str(row["spool"]) for row in site.stored() if row["lane"] == "event"}
    assert declared >= 5
    assert len(spools) == 2
    assert max(int(str(row["seq"])) for row in site.stored() if row["lane"] == "event") == 5 + others + declared
    assert (site.state / "outbox" / "outbox.db.corrupt").exists()
