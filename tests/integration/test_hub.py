"""A whole hub at a real broker, with a real device's uplink, asked on the command line."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleet.accounts import Accounts
from fleet.hub import Hub
from fleet.settings import BrokerSettings, HubSettings, HubWebSettings
from fleet.store.database import connect, migrate
from tests.fakes.fleet import DEVICE, Producer, load, write_settings
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.ports import free_port
from tests.fakes.uplinks import uplink
from tests.waiting import wait_until


@dataclass
class Site:
    """A hub, a device, and the environment of somebody with an operator's key."""

    producer: Producer
    environment: dict[str, str]

    def almena(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        done = subprocess.run(
            [sys.executable, "-m", "agent.cli", *arguments], env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, done.stdout, done.stderr

    def json(self, *arguments: str) -> Any:
        """What a command prints with --json."""
        code, out, err = self.almena("fleet", *arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    store = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    engine = connect(store)
    migrate(engine)
    _, key = Accounts(engine).add_key("test", "test", "operator")
    engine.dispose()
    with Mosquitto(tmp_path / "broker") as broker:
        hub = Hub(HubSettings(store=store, broker=BrokerSettings(port=broker.port), web=HubWebSettings(port=0)))
        hub.start()
        path = write_settings(tmp_path / "device", broker.port, delivery="hub")
        producer = Producer(load(path))
        try:
            with uplink(path):
                yield Site(producer, {**os.environ, "ALMENA_HUB_URL": hub.url, "ALMENA_HUB_KEY": key, "XDG_CONFIG_HOME": str(tmp_path)})
        finally:
            producer.close()
            hub.stop()


def test_an_operator_sees_asks_and_wants(site: Site, tmp_path: Path) -> None:
    site.producer.add(3)
    wait_until(lambda: site.producer.pending() == 0, 20, "the events to be settled by the hub")
    assert [(one["device"], one["state"]) for one in site.json("list")] == [(DEVICE, "online")]
    _, lines, _ = site.almena("fleet", "events", "--device", DEVICE, "--json")
    assert [json.loads(line)["data"]["n"] for line in lines.splitlines()] == [0, 1, 2]

    answered = site.json("command", DEVICE, "status")
    assert (answered["state"], answered["reply"]["code"]) == ("done", "done")
    code, _, err = site.almena("fleet", "command", DEVICE, "no-such-thing")
    assert (code, "could not do it" in err) == (1, True)

    wanted = tmp_path / "wanted.yaml"
    wanted.write_text("telemetry: {period_s: 10}\n")
    sent = site.json("desired", DEVICE, str(wanted))
    assert sent == {"revision": 1, "changes": [{"path": "telemetry.period_s", "before": None, "after": 10}]}
    told = wait_until(
        lambda: found if (found := site.json("desired", DEVICE))["errors"] else None, 20, "the device to report on what is wanted"
    )
    assert (told["outcome"], told["reported_revision"]) == ("waiting", None)
    assert told["errors"][0].startswith("revision 1 is not tried yet: the vision process does not answer")

    target = tmp_path / "events.csv"
    assert site.json("export", str(target))["bytes"] == target.stat().st_size > 0
    code, _, err = site.almena("fleet", "users", "list")
    assert (code, "needs the role admin" in err) == (2, True)


def test_a_key_is_read_from_a_file_of_its_owner_alone_and_goes_over_tls(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "access.yaml"
    file.write_text(yaml.safe_dump({"url": site.environment.pop("ALMENA_HUB_URL"), "key": site.environment.pop("ALMENA_HUB_KEY")}))
    file.chmod(0o640)
    code, _, err = site.almena("fleet", "list", "--hub", str(file))
    assert (code, "chmod 600" in err) == (2, True)
    file.chmod(0o600)
    code, out, _ = site.almena("fleet", "list", "--hub", str(file))
    assert (code, DEVICE in out) == (0, True)
    code, _, err = site.almena("fleet", "show", "nobody", "--hub", str(file))
    assert (code, "there is no device nobody" in err) == (2, True)
    site.environment |= {"ALMENA_HUB_URL": "http://hub.example.org:8640/"}
    code, _, err = site.almena("fleet", "list", "--hub", str(file))
    assert (code, "https only" in err) == (2, True)


def test_the_command_serves_until_it_is_stopped(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        config = {"store": "sqlite:///hub.sqlite", "broker": {"port": broker.port}, "web": {"port": 0}}
        (tmp_path / "hub.yaml").write_text(yaml.safe_dump(config))
        (tmp_path / "password").write_text("correct horse battery\n")
        almena = [sys.executable, "-m", "agent.cli", "hub", "-c", str(tmp_path / "hub.yaml")]
        subprocess.run([*almena, "add-user", "ada", "--password-file", str(tmp_path / "password")], check=True, timeout=120)
        saved = subprocess.run([*almena, "backup", str(tmp_path / "saved.gz"), "--json"], check=True, timeout=120, capture_output=True)
        assert json.loads(saved.stdout)["rows"] >= 2  # the person, and the journal of that
        again = subprocess.run([*almena, "restore", str(tmp_path / "saved.gz")], capture_output=True, text=True, timeout=120, check=False)
        assert (again.returncode, "not empty" in again.stderr) == (1, True)
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bell.bind(str(tmp_path / "notify"))
        bell.settimeout(60)
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(almena, stderr=log, env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")})
        try:
            assert [bell.recv(100) for _ in range(2)] == [b"READY=1", b"WATCHDOG=1"]
            line = wait_until(
                lambda: [one for one in (tmp_path / "log").read_text().splitlines() if "the page is at" in one], 60, "the hub"
            )
            port = int(line[0].rsplit(":", 1)[1].strip("/"))
            with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
                raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert b"200 OK" in raw.recv(1000)
            second = subprocess.run(almena, capture_output=True, text=True, timeout=120, check=False)
            assert (second.returncode, "a hub runs on" in second.stderr) == (1, True)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            bell.close()
        assert "alembic" not in (tmp_path / "log").read_text()


def test_a_part_that_ends_is_named(tmp_path: Path) -> None:
    hub = Hub(
        HubSettings(store=f"sqlite:///{tmp_path / 'hub.sqlite'}", broker=BrokerSettings(port=free_port()), web=HubWebSettings(port=0))
    )
    hub.start()
    try:
        assert hub.dead == ""
        hub._web.stop()
        assert hub.dead == "web"
        hub.ingest.stop()
        wait_until(lambda: hub.dead == "ingest", 10, "the end of the ingest")
    finally:
        hub.stop()
