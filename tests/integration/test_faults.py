"""produced = stored unique + declared lost + pending, with 0 unexplained, after everything that can go wrong between device and store.

`make faults` prints the table with the full figures; here is a short form of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.fault_site import FaultSite
from tests.fakes.faults import FULL, SHORT, Amount, device_gone, hub_killed, nothing, run, server_stopped
from tests.fakes.postgres import Postgres
from tests.fakes.small_disk import on_small_disk

SEED = int(os.environ.get("ALMENA_FAULTS_SEED", "6"))


@pytest.mark.timeout(600)
@on_small_disk(48)
def test_after_every_fault_nothing_is_unexplained(tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    survive(tmp_path, small_disk, devices=6, amount=SHORT, capsys=capsys)


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
