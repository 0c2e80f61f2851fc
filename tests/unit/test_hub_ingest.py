"""The hub's inbox, settings, subscriptions and duties, and one hub at a time on a file."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import insert, select

from agent.errors import AlmenaError, SettingsError
from fleet import duty
from fleet.ingest.inbox import Inbox
from fleet.ingest.link import Link, subscriptions
from fleet.settings import BrokerSettings, load
from fleet.store import Message
from fleet.store.database import connect, migrate, writing
from fleet.store.sole import sole_hub
from fleet.store.tables import duties
from tests.waiting import wait_until

pytestmark = pytest.mark.unit


def test_whoever_brings_more_than_the_inbox_holds_waits() -> None:
    inbox = Inbox(2)
    one, two, three, four = (Message("t", bytes([number]), 0.0) for number in range(4))
    inbox.put(one)
    inbox.put(two)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(inbox.put, three)
        assert not wait_until(lambda: [waiting.done()], 1, "the look")[0]
        assert inbox.take(1, 0.0) == [one]
        waiting.result(60)
        assert inbox.take(10, 0.0) == [two, three]
        for message in (one, two):
            inbox.put(message)
        waiting = pool.submit(inbox.put, four)
        inbox.close()
        waiting.result(60)
    assert inbox.take(10, 0.0) == [one, two]
    assert inbox.take(10, 0.0) == []


def test_settings_of_a_hub(tmp_path: Path) -> None:
    file = tmp_path / "hub.yaml"
    file.write_text("store: sqlite:///data/hub.sqlite\n")
    assert load(file).store == f"sqlite:///{tmp_path}/data/hub.sqlite"
    assert load(file).erased_list == tmp_path / "data" / "hub.sqlite.erased"
    file.write_text("store: postgresql://hub@db/hub\nerasures: safe/erased\n")
    assert load(file).erased_list == tmp_path / "safe" / "erased"
    file.write_text("broker:\n  share: hubs\n")
    with pytest.raises(SettingsError, match="several hubs need PostgreSQL"):
        load(file)
    file.write_text("web:\n  host: 0.0.0.0\nretention:\n  evnts_s: 7\n")
    with pytest.raises(SettingsError, match=rf"(?s){file}:1: web: 0.0.0.0 can be reached.*{file}:4: retention.evnts_s: "):
        load(file)


def test_a_shared_hub_hears_what_is_retained_by_itself() -> None:
    assert subscriptions("") == ["almena/1/+/status", "almena/1/+/up/#"]
    assert subscriptions("hubs")[:2] == ["almena/1/+/status", "almena/1/+/up/reported"]
    assert subscriptions("hubs")[-1] == "$share/hubs/almena/1/+/up/#"


class RefusingBroker(threading.Thread):
    """Takes a connection at MQTT 3.1.1, and answers a subscription of two with: granted, refused."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])

    def run(self) -> None:
        connection, _ = self._server.accept()
        with connection, self._server:
            connection.recv(4096)
            connection.sendall(b"\x20\x02\x00\x00")
            while data := connection.recv(4096):
                if data[0] == 0x82:
                    connection.sendall(b"\x90\x04" + data[2:4] + b"\x01\x80")


def test_a_subscription_that_the_broker_refuses_is_told(caplog: pytest.LogCaptureFixture) -> None:
    broker = RefusingBroker()
    broker.start()
    link = Link(BrokerSettings(port=broker.port, version="3.1.1"))
    link.open()
    wait_until(lambda: link.unheard, 20, "the refusal")
    link.close()
    broker.join(60)
    assert "to listen to almena/1/+/up/# (" in link.unheard
    assert "almena/1/+/status" not in link.unheard
    assert link.unheard in caplog.text


def test_a_duty_is_kept_while_the_work_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(duty, "LEASE_S", 0.3)
    monkeypatch.setattr(duty, "time", SimpleNamespace(time=lambda: clock[0], monotonic=lambda: clock[0], thread_time=time.thread_time))
    engine = connect(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    migrate(engine)
    go, done, worked = threading.Event(), threading.Event(), threading.Event()

    def long(_now: float) -> None:
        go.set()
        done.wait(60)

    one, other = duty.Duty(engine, "tell", 0.1, long), duty.Duty(engine, "tell", 0.1, lambda _now: worked.set())

    def held_until() -> float:
        with engine.connect() as connection:
            return float(connection.execute(select(duties.c.until)).scalar_one())

    one.start()
    assert go.wait(60)
    other.start()
    for _ in range(5):
        clock[0] += 0.2
        wait_until(lambda: held_until() == pytest.approx(clock[0] + 0.3), 30, "the lease to go on")
    assert not worked.is_set(), "two of one duty"
    done.set()
    one.stop()
    assert worked.wait(60)
    other.stop()
    engine.dispose()


def test_a_duty_that_was_taken_while_the_clock_was_ahead_is_free(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'hub.sqlite'}")
    migrate(engine)
    with writing(engine) as connection:
        connection.execute(insert(duties).values(name="tell", holder="killed", until=time.time() + 365 * 86400))
    worked = threading.Event()
    one = duty.Duty(engine, "tell", 0.1, lambda _now: worked.set())
    one.start()
    assert worked.wait(60)
    one.stop()
    engine.dispose()


def test_one_hub_at_a_time_on_a_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    with sole_hub(url), pytest.raises(AlmenaError, match=r"already \(process"), sole_hub(url):
        pass
    with sole_hub(url), sole_hub("postgresql://x/y"), sole_hub("postgresql://x/y"):
        pass
