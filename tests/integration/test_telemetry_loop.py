"""Samples reach the outbox, with and without a vision process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent import wire
from agent.datatypes import Event, StreamHealth
from agent.outbox import Outbox, OutboxError
from agent.settings import Settings, TelemetrySettings
from agent.uplink.status import UplinkStatus
from agent.uplink.telemetry import TelemetryLoop
from agent.uplink.telemetry.jetson import JetsonCollector
from agent.vision.control import ControlServer
from tests.waiting import wait_until


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.model_validate({"state_dir": tmp_path, "telemetry": {"period_s": 1}})


@pytest.fixture
def outbox(settings: Settings) -> Iterator[Outbox]:
    box = Outbox.open(settings.outbox_dir, "cam", settings.outbox)
    yield box
    box.close()


def _samples(outbox: Outbox) -> list[dict[str, Any]]:
    events = [wire.decode_event(row.payload) for row in outbox.pending("telemetry", 10)]
    assert {event.kind for event in events} <= {"telemetry"}
    return [sample for event in events for sample in event.data["samples"]]


def test_a_device_whose_vision_process_is_down(settings: Settings, outbox: Outbox, tmp_path: Path) -> None:
    loop = TelemetryLoop(settings, outbox, UplinkStatus(), JetsonCollector(tmp_path))
    assert loop.snapshot() == {}
    loop.start()
    try:
        first, second = wait_until(lambda: found if len(found := _samples(outbox)) >= 2 else None, 10, "two samples")[:2]
    finally:
        loop.stop()
    assert first["vision"]["state"] == "down"
    assert "does not answer" in first["vision"]["reason"]
    assert "system.processes.vision" in first["missing"]
    assert "system.cpu_percent" in first["missing"]
    assert 0 <= second["system"]["cpu_percent"] <= 100
    assert 0 < second["at"] - first["at"] < 30
    assert second["outbox"]["telemetry"]["pending"] == 1
    assert (first["mqtt"]["state"], "jetson" in first) == ("off", False)
    assert loop.snapshot()["system"]["memory"]["total_bytes"] > 0


def test_another_period_counts_at_once(settings: Settings, outbox: Outbox, tmp_path: Path) -> None:
    seldom = settings.model_copy(update={"telemetry": TelemetrySettings(period_s=3600)})
    loop = TelemetryLoop(seldom, outbox, UplinkStatus(), JetsonCollector(tmp_path))
    loop.start()
    try:
        wait_until(lambda: _samples(outbox), 10, "a sample")
        loop.every(1800)
        first, second = wait_until(lambda: found if len(found := _samples(outbox)) >= 2 else None, 10, "another")
    finally:
        loop.stop()
    assert (first["period_s"], second["period_s"]) == (3600, 1800)


class _Vision(SimpleNamespace):
    def streams(self) -> list[StreamHealth]:
        return [StreamHealth("door", "running", captured=7, processed=5, skipped=2)]

    def metrics(self) -> dict[str, dict[str, float]]:
        return {"door": {"infer_p50_seconds": 0.02}}

    def engines(self) -> list[dict[str, Any]]:
        return [{"model": "seer@1", "backend": "openvino", "precision": "bf16", "why": "it won", "file": "seer.blob"}]


def test_a_device_that_sees(settings: Settings, outbox: Outbox, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.0\n")
    server = ControlServer(_Vision(settings=settings, in_force=dict, pictures=None, preview=None))  # type: ignore[arg-type]
    server.start()
    loop = TelemetryLoop(settings, outbox, UplinkStatus(delivery="hub", state="connected"), JetsonCollector(tmp_path))
    loop.start()
    try:
        (sample,) = wait_until(lambda: _samples(outbox), 10, "a sample")[:1]
    finally:
        loop.stop()
        server.stop()
    assert (sample["vision"]["state"], sample["vision"]["pid"]) == ("up", os.getpid())
    assert sample["vision"]["streams"][0]["skipped"] == 2
    assert sample["vision"]["metrics"]["door"]["infer_p50_seconds"] == 0.02
    assert sample["vision"]["engines"] == [{"model": "seer@1", "backend": "openvino", "precision": "bf16", "why": "it won"}]
    assert sample["system"]["processes"]["vision"]["rss_bytes"] > 10e6
    assert sample["mqtt"]["delivery"] == "hub"
    assert "jetson.gpu_percent" in sample["missing"]


def test_a_sample_that_cannot_be_stored_is_not_the_last(
    settings: Settings, outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, failures = outbox.append, iter((OutboxError("the disk is full"), RuntimeError("a bug")))

    def append(lane: str, events: Sequence[Event]) -> list[int]:
        if error := next(failures, None):
            raise error
        return store(lane, events)

    monkeypatch.setattr(outbox, "append", append)
    loop = TelemetryLoop(settings, outbox, UplinkStatus(), JetsonCollector(tmp_path))
    loop.start()
    try:
        wait_until(lambda: _samples(outbox), 15, "a sample after two failures")
    finally:
        loop.stop()
    assert "a telemetry sample could not be stored: the disk is full" in caplog.text
    assert "a bug" in caplog.text
