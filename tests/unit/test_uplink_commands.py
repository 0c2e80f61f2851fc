"""What is reported to the hub follows what runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent import wire
from agent.outbox import Outbox
from agent.settings import OutboxSettings
from agent.uplink import commands as commands_module
from agent.uplink.commands import Commands
from fleet.simulate.desired import SimulatedSettings
from tests.waiting import wait_until

pytestmark = pytest.mark.unit


def test_engines_that_come_up_later_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_module, "LOOK_S", 0.02)
    published: list[dict[str, Any]] = []
    state: dict[str, Any] = {"engines": {"error": "the vision process does not answer"}}

    def publish(topic: str, payload: bytes, **options: Any) -> None:
        assert (topic, options["retain"]) == (wire.TOPICS["reported"].of("dev"), True)
        published.append(dict(wire.decode(wire.Reported, payload).state))

    with Outbox.open(tmp_path / "outbox", "dev", OutboxSettings()) as outbox:
        commands = Commands("dev", tmp_path / "uplink", outbox, publish, {}, lambda: state, SimulatedSettings())
        commands.start()
        commands.report()
        wait_until(lambda: len(published) == 1, 5, "the first report")
        state = {"engines": ["centerface"]}
        wait_until(lambda: len(published) == 2, 5, "the report to follow")
        commands.stop()
    assert published == [{"engines": {"error": "the vision process does not answer"}}, {"engines": ["centerface"]}]
