"""Faults under a running agent: real processes, a real broker, a disk that is really full, files that are really damaged, a clock that
is really wrong."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fakes import small_disk as disk
from tests.fakes.fleet import Peer, peer
from tests.fakes.photographs import Album
from tests.fakes.turned_clock import TurnedClock
from tests.fakes.whole_site import DEVICE, Site
from tests.waiting import wait_until

HOUR_S, DAY_S = 3600, 86400
HERE = f"almena/1/{DEVICE}"


def stored(site: Site, album: Album) -> None:
    """Wait until the hub has each face once and the device nothing pending."""
    wait_until(lambda: site.faces() >= album.faces, 60, f"{album.faces} faces at the hub")
    wait_until(lambda: site.pending() == 0, 30, "nothing to be pending")
    tracks = [row["data"]["track"] for row in site.stored() if row["kind"] == "face"]  # type: ignore[index]
    assert len(tracks) == len(set(tracks)) == album.faces


def losses(site: Site) -> list[tuple[str, int]]:
    """Reason and count of what the hub was told is lost of the event lane."""
    told = [row["data"] for row in site.stored() if row["lane"] == "loss"]
    return [(data["reason"], data["count"]) for data in told if data["lane"] == "event"]  # type: ignore[index, call-overload]


def wait_for_room(album: Album) -> bool:
    """Whether pictures do. Some may still find room in the files that the outbox has, and then more are taken."""
    ages = []
    for picture in album.inbox.glob("[0-9]*.jpg"):
        with suppress(FileNotFoundError):
            ages.append(time.time() - picture.stat().st_mtime)
    if len(ages) < 2:
        album.take(2)
    return any(age > 3 for age in ages)


@disk.on_small_disk(8)
def test_full_disk_under_a_running_agent(
    small_disk: Path, tmp_path: Path, models_dir: Path, engines_dir: Path, portraits: Mapping[str, Path]
) -> None:
    (small_disk / "outbox").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "outbox").symlink_to(small_disk / "outbox")
    site = Site(tmp_path, models_dir, engines_dir)
    try:
        album = Album(site.inbox, portraits)
        album.take(2)
        stored(site, album)
        site.broker.stop()
        filler = disk.fill(small_disk)
        wait_until(lambda: not (site.state / "outbox" / "reserve").exists(), 30, "the reserve to be given up")
        disk.fill(small_disk)
        album.take(6)
        wait_until(lambda: wait_for_room(album), 60, "pictures to wait for room")
        site.kill("uplink")
        filler.unlink()
        wait_until(lambda: album.processed() == album.taken, 60, "every picture to be processed")
        for name in ("vision", "uplink"):
            site.running(name)
        site.broker.start()
        stored(site, album)
        assert not losses(site), "photographs are kept, so nothing need be lost"
    finally:
        site.close()


@pytest.fixture
def site(tmp_path: Path, models_dir: Path, engines_dir: Path) -> Iterator[Site]:
    site = Site(tmp_path, models_dir, engines_dir)
    yield site
    site.close()


def test_outbox_damaged_between_two_runs(site: Site, portraits: Mapping[str, Path]) -> None:
    album = Album(site.inbox, portraits)
    album.take(3)
    stored(site, album)
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


def bad_pictures(album: Album, folder: Path) -> dict[str, bytes]:
    """A truncated JPEG, an empty one, text, and a small file that would be 2.7 GB once decoded."""
    album.take(1)
    whole = wait_until(lambda: next(folder.glob("done/*.jpg"), None), 60, "a good picture").read_bytes()
    frame = struct.pack(">BBHBHHB9B", 0xFF, 0xC0, 17, 8, 30_000, 30_000, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1)
    return {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not a picture at all\n", "bomb": b"\xff\xd8" + frame}


def test_bad_pictures_are_set_aside_and_the_stream_goes_on(site: Site, portraits: Mapping[str, Path]) -> None:
    album = Album(site.inbox, portraits)
    bad = bad_pictures(album, site.inbox)
    for name, content in bad.items():
        (site.inbox / f"{name}.jpg").write_bytes(content)
        album.take(2)
    stored(site, album)
    failed = site.inbox / "failed"
    wait_until(lambda: len(list(failed.glob("*.jpg"))) == len(bad), 20, "the bad ones to be set aside")
    reasons = {name: (failed / f"{name}.jpg.reason.txt").read_text() for name in bad}
    assert "truncated" in reasons["truncated"]
    assert "is empty" in reasons["empty"]
    assert "not a JPEG" in reasons["text"]
    assert "30000x30000 pixels" in reasons["bomb"]
    assert {name: (failed / f"{name}.jpg").read_bytes() for name in bad} == bad
    wait_until(lambda: [stream["failed"] for stream in telemetry(site).get("streams", ())] == [len(bad)], 20, "the count in telemetry")
    assert telemetry(site)["streams"][0]["state"] == "running"
    assert not losses(site)


def telemetry(site: Site) -> dict[str, Any]:
    """What the newest sample at the hub says of vision."""
    ((newest,),) = site.sql(site.hub_file, "SELECT telemetry FROM devices")
    found: dict[str, Any] = json.loads(newest)["vision"]
    return found


GUARD = """
import sys
from agent.supervisor import Child, Supervisor
Supervisor([Child("vision", ["agent.vision", sys.argv[1]], silent_s=4.0)]).run()
"""


def test_vision_that_hangs_is_replaced(site: Site, portraits: Mapping[str, Path]) -> None:
    album = Album(site.inbox, portraits)
    site.stop("vision")
    with subprocess.Popen([sys.executable, "-c", GUARD, str(site.config)]) as guard:
        try:
            album.take(3)
            stored(site, album)
            (vision,) = psutil.Process(guard.pid).children()
            vision.suspend()
            album.take(3)
            wait_until(lambda: not vision.is_running() or vision.status() == psutil.STATUS_ZOMBIE, 20, "the hanging process to be killed")
            stored(site, album)
            assert psutil.Process(guard.pid).children() != [vision]
            assert not losses(site)
        finally:
            guard.terminate()
    assert guard.returncode == 0


def ask(hub: Peer, identity: str, expires_at: float) -> dict[str, Any]:
    """Send the command `status`, and wait for one more reply to `identity`."""
    topic = f"{HERE}/up/reply/{identity}"
    before = len(hub.on(topic))
    hub.say(f"{HERE}/down/command/status", {"v": 1, "id": identity, "name": "status", "reply_to": topic, "expires_at": expires_at})
    wait_until(lambda: len(hub.on(topic)) > before, 15, f"a reply to {identity}")
    found: dict[str, Any] = json.loads(hub.on(topic)[-1].payload)
    return found


def test_clock_stepped_under_a_running_agent(tmp_path: Path, models_dir: Path, engines_dir: Path, portraits: Mapping[str, Path]) -> None:
    clock = TurnedClock(tmp_path)
    lanes = {"event": {"max_age_s": HOUR_S}, "telemetry": {"max_age_s": HOUR_S}}
    site = Site(tmp_path, models_dir, engines_dir, clock=clock, outbox=lanes)
    try:
        album = Album(site.inbox, portraits)
        album.take(2)
        stored(site, album)
        with peer(site.broker.port, f"{HERE}/up/reply/#") as hub:
            assert ask(hub, "before", time.time() + 60)["code"] == "done"
        for step_s in (DAY_S, -HOUR_S):
            clock_stepped(site, album, clock, step_s)
        assert not losses(site)
        assert max(site.observer.events().values()) <= 20, "no storm: sent again only while the hub is not back after the broker"
        for name in ("vision", "uplink"):
            site.running(name)
    finally:
        site.close()


def clock_stepped(site: Site, album: Album, clock: TurnedClock, step_s: int) -> None:
    """The step comes while events wait for a broker: they are no older for it, and the hub learns how the clocks relate."""
    site.broker.stop()
    album.take(2)
    wait_until(lambda: album.processed() == album.taken, 60, "pictures without a broker")
    clock.turn(step_s)
    wait_until(lambda: abs(clock_record(site.state) - step_s) < 5, 20, "a clock record")
    album.take(2)
    wait_until(lambda: album.processed() == album.taken, 60, "pictures after the step")
    site.broker.start()
    site.observer.until_connected()
    stored(site, album)
    wait_until(lambda: any(abs(ahead - step_s) < 5 for ahead in told(site)), 20, "the hub to know how the clocks relate")
    with peer(site.broker.port, f"{HERE}/up/reply/#") as hub:
        here = time.time() + step_s
        assert "done" in [ask(hub, f"fresh-{step_s}-{again}", here + 60)["code"] for again in range(3)]
        # libfaketime now and then gives one of several threads the true time
        late = next(found for again in range(3) if (found := ask(hub, f"late-{step_s}-{again}", here - 60))["code"] == "expired")
        assert "check the clocks" in late["detail"]
        assert ask(hub, "before", time.time() + 60)["code"] == "done", "what was carried out once gets its old reply"


def told(site: Site) -> list[float]:
    """How far ahead the device's clock was, by each clock record that the hub has."""
    return [ahead_s(row["data"]) for row in site.stored() if row["lane"] == "clock"]  # type: ignore[arg-type]


def ahead_s(record: Mapping[str, float]) -> float:
    """How far the clock of a clock record is ahead of this machine's."""
    return record["wall"] - record["mono_ns"] / 1e9 - (time.time() - time.monotonic())


def clock_record(state: Path) -> float:
    """How far ahead the device says its clock is, in its newest clock record, by SQL alone."""
    rows = Site.sql(state / "outbox" / "outbox.db", "SELECT payload FROM rows WHERE lane = 'clock' ORDER BY seq DESC LIMIT 1")
    return ahead_s(json.loads(rows[0][0])["data"]) if rows else 0.0
