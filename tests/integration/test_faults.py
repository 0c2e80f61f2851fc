"""produced = stored unique + declared lost + pending, with 0 unexplained, after everything that can go wrong between device and store.

`make faults` prints the table with the full figures; here is a short form of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.fault_site import FaultSite
from tests.fakes.faults import FAULTS, FULL, SHORT, Amount, device_gone, hub_killed, nothing, run, server_stopped
from tests.fakes.postgres import Postgres
from tests.fakes.small_disk import on_small_disk
from tests.waiting import wait_until

SEED = int(os.environ.get("ALMENA_FAULTS_SEED", "6"))


@pytest.mark.timeout(600)
@on_small_disk(48)
def test_after_every_fault_nothing_is_unexplained(tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    survive(tmp_path, small_disk, devices=6, amount=SHORT, capsys=capsys)


@pytest.mark.timeout(600)
def test_at_mqtt_3_1_1_nothing_is_unexplained_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With what hangs on the session."""
    names = ("none", "broker killed", "hub killed", "agent killed", "link slow, reset, silent", "duplicates, reordering")
    site = FaultSite(tmp_path, 6, SEED, tmp_path / "hub", version="3.1.1")
    try:
        run(site, SHORT, tmp_path, SEED, _teller(capsys, "6 devices, MQTT 3.1.1"), {name: FAULTS[name] for name in names})
    finally:
        site.close()


@pytest.mark.timeout(300)
def test_devices_with_new_disks_under_load_leave_no_gap(tmp_path: Path) -> None:
    """What waits for the hub comes out of order after the broker was killed: a number far above what the hub knew of the old disk first."""
    site = FaultSite(tmp_path, 3, SEED, tmp_path / "hub")
    try:
        site.more_stored(60)
        site.settled()
        site.hub.stop()
        site.reboot(new_disks=True)
        before = site.produced()
        for name in site.names:
            site.command(name, "misbehave", fault="storm", count=1000)
        wait_until(lambda: all(len(site.pending(name)) >= 1000 for name in site.names), 60, "the storms")
        site.kill_broker()
        site.hub.start()
        upto = site.produced()
        wait_until(lambda: not any(site.pending(name) for name in site.names), 120, "everything to be at the hub")
        assert site.missing() == {}
        rows = site.hub.sql("SELECT device, payload FROM events")
        numbers = {name: {json.loads(payload)["data"]["n"] for device, payload in rows if device == name} for name in site.names}
        assert all(set(range(before[name] + 1, upto[name] + 1)) <= numbers[name] for name in site.names)
        assert len(site.hub.sql("SELECT DISTINCT spool FROM events")) == 2 * len(site.names)
    finally:
        site.close()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@on_small_disk(600)
def test_the_full_figures(tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    survive(tmp_path, small_disk, devices=12, amount=FULL, capsys=capsys)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_postgresql_is_stopped_for_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Postgres() as postgres:
        faults = {"none": nothing, "device gone": device_gone, "PostgreSQL stopped": server_stopped(postgres), "hub killed": hub_killed}
        site = FaultSite(tmp_path, 12, SEED, tmp_path / "hub", postgres=postgres.url())
        try:
            run(site, FULL, tmp_path, SEED, _teller(capsys, "12 devices, the hub on PostgreSQL"), faults)
        finally:
            site.close()


def survive(folder: Path, disk: Path, devices: int, amount: Amount, capsys: pytest.CaptureFixture[str]) -> None:
    """Print the table, too."""
    site = FaultSite(folder, devices, SEED, disk)
    try:
        run(site, amount, disk, SEED, _teller(capsys, f"{devices} devices, seed {SEED}"))
    finally:
        site.close()


def _teller(capsys: pytest.CaptureFixture[str], title: str) -> Callable[[str], None]:
    def tell(line: str) -> None:
        with capsys.disabled():
            print(line, flush=True)

    tell(f"\n{title}")
    return tell
