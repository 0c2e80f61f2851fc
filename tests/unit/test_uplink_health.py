"""When the uplink says that it makes progress, and what it does when it does not."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent.datatypes import Event
from agent.outbox import Outbox, OutboxError
from agent.settings import OutboxSettings
from agent.uplink import __main__ as process
from agent.uplink.local import LocalOnly
from tests.waiting import wait_until

pytestmark = pytest.mark.unit


class Looked:
    """An uplink as its main loop sees it: says in turn what it is given, and the last for ever."""

    def __init__(self, *answers: bool) -> None:
        self.answers = list(answers)
        self.looks = 0

    def look(self) -> bool:
        self.looks += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_a_stuck_uplink_ends_to_be_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(process, "GIVE_UP_AFTER_S", 0.2)
    uplink = Looked(True, False, True, False)
    started = time.monotonic()
    assert process._stay(uplink, threading.Event()) == 1  # type: ignore[arg-type]
    assert time.monotonic() - started > 0.2
    assert uplink.looks > 4


def test_an_uplink_that_is_asked_to_stop_has_not_failed() -> None:
    stopping = threading.Event()
    stopping.set()
    assert process._stay(Looked(False), stopping) == 0  # type: ignore[arg-type]


def test_settling_alone_is_alive_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Outbox.open(tmp_path, "dev-1", OutboxSettings()) as outbox:
        local = LocalOnly(outbox)
        assert not local.alive(60.0)
        local.start()
        assert local.alive(60.0)
        pending, failures = outbox.pending, []

        def failing(*_: Any, **__: Any) -> Any:
            failures.append(1)
            raise OutboxError("the disk cannot be read")

        monkeypatch.setattr(outbox, "pending", failing)
        outbox.append("event", [Event("cam", "count", {}, time.time(), time.monotonic_ns())])
        wait_until(lambda: len(failures) > 1, 10, "a second try")
        assert not local.alive(0.5)
        monkeypatch.setattr(outbox, "pending", pending)
        wait_until(lambda: local.alive(0.5), 10, "it to work again")
        wait_until(lambda: outbox.stats()["event"]["settled"] == 1, 10, "the settling")
        local.stop()
        assert not local.alive(60.0)
