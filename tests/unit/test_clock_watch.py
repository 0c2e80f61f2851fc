"""Clock records."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.outbox import Outbox
from agent.settings import OutboxSettings
from agent.uplink.clock_watch import ClockWatch
from tests.fakes.clock import FakeClock

pytestmark = pytest.mark.unit


def test_one_record_each_time_the_clock_becomes_synchronised(tmp_path: Path) -> None:
    clock = FakeClock()
    with Outbox.open(tmp_path, "dev-1", OutboxSettings()) as outbox:
        watch = ClockWatch(outbox, clock)
        for synced, records in ((False, 0), (True, 1), (True, 1), (False, 1), (True, 2)):
            clock.synced = synced
            watch.look()
            rows = outbox.history(lane="clock")
            assert len(rows) == records
        assert rows[0]["data"] == {"mono_ns": 10_000_000_000, "wall": 1.7e9}


def test_a_step_while_nobody_looked_is_told_by_the_first_record_after_the_start(tmp_path: Path) -> None:
    clock = FakeClock()
    with Outbox.open(tmp_path, "dev-1", OutboxSettings()) as outbox:
        ClockWatch(outbox, clock).look()
        clock.pass_time(30.0)
        clock.wall_s -= 3600.0
        ClockWatch(outbox, clock).look()
        before, after = (record["data"] for record in outbox.history(lane="clock", after_seq=0))
        assert (after["wall"] - before["wall"]) - (after["mono_ns"] - before["mono_ns"]) / 1e9 == pytest.approx(-3600.0)


def test_a_step_of_a_synchronised_clock_is_told(tmp_path: Path) -> None:
    clock = FakeClock()
    with Outbox.open(tmp_path, "dev-1", OutboxSettings()) as outbox:
        watch = ClockWatch(outbox, clock)
        for step_s, records in ((0.0, 1), (0.4, 1), (0.2, 2), (-3600.0, 3), (0.0, 3)):
            clock.pass_time(5.0)
            clock.wall_s += step_s
            watch.look()
            assert len(outbox.history(lane="clock")) == records
