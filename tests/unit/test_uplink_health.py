"""When the uplink says that it makes progress, and what it does when it does not."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.datatypes import Event
from agent.outbox import Outbox, OutboxError, store
from agent.settings import OutboxSettings
from agent.uplink import __main__ as process
from agent.uplink.local import LocalOnly
from tests.fakes.fleet import write_settings
from tests.fakes.uplinks import uplink
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


def test_a_pause_of_the_whole_machine_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(process, "GIVE_UP_AFTER_S", 0.1)
    stopping = threading.Event()

    class Paused(Looked):
        def look(self) -> bool:
            if super().look():
                stopping.set()
                return True
            time.sleep(0.3)
            return False

    assert process._stay(Paused(False, True), stopping) == 0  # type: ignore[arg-type]


def test_an_uplink_that_is_asked_to_stop_has_not_failed() -> None:
    stopping = threading.Event()
    stopping.set()
    assert process._stay(Looked(False), stopping) == 0  # type: ignore[arg-type]


def test_ages_hold_while_the_broker_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAINTAIN_S", 0.0)
    path = write_settings(tmp_path, 1)
    limits = {"outbox": {"event": {"max_age_s": 0.01}, "history_age_s": 0.01}}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **limits}))
    with uplink(path) as one:
        one.outbox.append("event", [Event("cam", "count", {}, time.time(), time.monotonic_ns()) for _ in range(3)])
        one.outbox.settle("event", one.outbox.stats()["event"]["spool"], upto=1)
        wait_until(lambda: one.look() and one.outbox.stats()["event"]["pending"] == 0, 10, "the events to expire")
        wait_until(lambda: one.look() and one.outbox.history() == [], 10, "the history to be forgotten")
        books = one.outbox.stats()
        assert (books["event"]["lost"], books["loss"]["pending"]) == (2, 1), "declared, to be sent when the broker is back"


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
