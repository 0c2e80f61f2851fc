"""All devices of a fleet come back at once, because the broker was away: how long that takes, and what it costs whom."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.fakes.fault_site import FaultSite
from tests.waiting import wait_until

DEVICES = int(os.environ.get("ALMENA_STORM_DEVICES", "1000"))
OVER_WITHIN_S = 120.0
STEADY_S = 20.0
MEGABYTES_PER_DEVICE = 4.0
MEMORY = Path("/dev/shm")


class Cost:
    """Processor time of the parties since a moment."""

    def __init__(self, site: FaultSite) -> None:
        self._processes = {"broker": site.broker.pid, "devices": site.agent.pid, "hub": site.hub.pid}
        self._before = {name: self._used(name) for name in self._processes}
        self._began = time.monotonic()

    def text(self) -> str:
        """In percent of a core, on the average."""
        seconds = time.monotonic() - self._began
        parts = [f"{name} {100 * (self._used(name) - self._before[name]) / seconds:.0f} %" for name in self._processes]
        return f"{', '.join(parts)} of a core"

    def _used(self, name: str) -> float:
        used = psutil.Process(self._processes[name]).cpu_times()
        return float(used.user + used.system)


@pytest.fixture
def site() -> Iterator[FaultSite]:
    """Outboxes and store in memory where that is possible: what a shared disk does to a thousand of them is not asked here."""
    with tempfile.TemporaryDirectory(prefix="almena-storm-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        mine = {"telemetry_s": 10, "events_per_minute": 1, "haste": 1, "start_per_second": 200}
        site = FaultSite(Path(folder), DEVICES, 1, Path(folder), links=False, **mine)
        yield site
        site.close()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_thousand_devices_come_back_at_once(site: FaultSite, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.time()
    online = "SELECT count(*) FROM devices WHERE state = 'online' AND status_at >= {}"
    wait_until(lambda: site.hub.sql(online.format(began)) == [(DEVICES,)], 300, "all devices to be online")
    lines = [f"{DEVICES} devices, telemetry every 10 s, an event a minute: online after {time.time() - began:.0f} s"]
    steady, end = Cost(site), time.monotonic() + STEADY_S
    wait_until(lambda: time.monotonic() > end, STEADY_S, "the time to pass")
    memory = psutil.Process(site.agent.pid).memory_info().rss / 2**20 / DEVICES
    lines.append(f"at rest: {steady.text()}; {memory:.2f} MB for each device, with what the process itself takes")
    site.broker.kill()
    storm = time.time()
    site.broker.start()
    cost = Cost(site)
    wait_until(lambda: site.hub.sql(online.format(storm)) == [(DEVICES,)], OVER_WITHIN_S + 60, "all devices to be back")
    seconds = time.time() - storm
    books, _, settled = site.settled()
    lines += [f"broker killed: all back after {seconds:.0f} s, all stored {settled:.1f} s later; {cost.text()}", str(books)]
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert seconds < OVER_WITHIN_S
    assert memory < MEGABYTES_PER_DEVICE
    assert books.lost == 0
