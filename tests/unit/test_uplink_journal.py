"""The journal of commands, damaged and out of reach."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent import wire
from agent.outbox import Outbox
from agent.settings import OutboxSettings
from agent.uplink.commands import Commands
from agent.uplink.journal import Journal
from fleet.simulate.desired import SimulatedSettings

pytestmark = pytest.mark.unit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of some pages."""
    path = tmp_path / "uplink" / "commands.sqlite"
    journal = Journal(path)
    for number in range(40):
        journal.begin(f"c-{number}")
        journal.finish(f"c-{number}", bytes(1000))
    journal.close()
    return path


@pytest.mark.parametrize("start", [0, 4096])
def test_a_damaged_file_is_set_aside_and_a_new_one_begun(path: Path, caplog: pytest.LogCaptureFixture, start: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * 8192)
    damaged = path.read_bytes()
    journal = Journal(path)
    assert journal.begin("c-0"), "what was before is forgotten"
    journal.finish("c-0", b"again")
    assert (journal.begin("c-0"), journal.reply("c-0")) == (False, b"again")
    journal.close()
    assert (path.parent / "commands.sqlite.corrupt" / "commands.sqlite").read_bytes() == damaged
    (warning,) = caplog.messages
    assert f"lies in {path}.corrupt: replies until now are lost" in warning


def test_damage_that_is_met_later_is_mended_too(path: Path) -> None:
    journal = Journal(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE commands")
    assert journal.begin("c-0")
    assert not journal.begin("c-0")
    journal.close()


def test_commands_that_cannot_be_noted_are_refused_until_they_can(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    replies: list[tuple[bool, str]] = []

    def publish(topic: str, payload: bytes, **_options: Any) -> bool:
        assert topic == wire.TOPICS["reply"].of("dev", id="c-1")
        reply = wire.decode(wire.Reply, payload)
        replies.append((reply.ok, reply.code))
        return True

    in_the_way = tmp_path / "uplink"
    in_the_way.write_bytes(b"")
    with Outbox.open(tmp_path / "outbox", "dev", OutboxSettings()) as outbox:
        commands = Commands("dev", in_the_way, outbox, publish, {"rebirth": lambda _: done.append("rebirth")}, dict, SimulatedSettings())
        reply_to = wire.TOPICS["reply"].of("dev", id="c-1")
        command = wire.Command(id="c-1", name="rebirth", reply_to=reply_to, expires_at=time.time() + 60)
        message = (wire.TOPICS["command"].of("dev", name="rebirth"), wire.encode(command))
        commands.handle(*message)
        assert (replies, done) == ([(False, "not-recorded")], [])
        in_the_way.unlink()
        for _ in range(2):
            commands.handle(*message)
        commands.start()
        commands.stop()
    assert (replies[1:], done) == ([(True, "done")] * 2, ["rebirth"])
    assert "commands are refused while that is so" in caplog.messages[0]
