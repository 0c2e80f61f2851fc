"""Who may read what the uplink process writes."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import yaml

from tests.fakes.fleet import DEVICE, Process, peer, write_settings
from tests.fakes.mosquitto import Mosquitto
from tests.waiting import wait_until


def test_a_taken_port_costs_the_page_only(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path / "broker") as broker,
        peer(broker.port, f"almena/1/{DEVICE}/up/reported") as hub,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        path = write_settings(tmp_path, broker.port)
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "web": {"port": taken.getsockname()[1]}}))
        uplink = Process(tmp_path, "agent.uplink", str(path))
        uplink.start()
        try:
            wait_until(lambda: hub.heard, 30, "the reported state")
            assert not (tmp_path / "state" / "run" / "page.url").exists()
            taken.close()
            wait_until(lambda: (tmp_path / "state" / "run" / "page.url").exists(), 60, "the page")
        finally:
            assert uplink.stop() == 0


def test_state_is_for_owner_and_group(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as broker, peer(broker.port, f"almena/1/{DEVICE}/up/reported") as hub:
        path = write_settings(tmp_path, broker.port)
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "web": {"port": 0}}))
        state = tmp_path / "state"
        before = os.umask(0o022)
        try:
            uplink = Process(tmp_path, "agent.uplink", str(path))
            uplink.start()
        finally:
            os.umask(before)
        try:
            wait_until(lambda: hub.heard, 20, "the reported state")
            hub.say(f"almena/1/{DEVICE}/down/desired", {"v": 1, "revision": 1, "state": {}}, retain=True)
            files = ("uplink/desired.json", "uplink/commands.sqlite", "run/page.url", "outbox/outbox.db")
            wait_until(lambda: all((state / name).exists() for name in files), 20, "the files")
            modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (state, *state.rglob("*"))}
        finally:
            assert uplink.stop() == 0
        assert {str(path): oct(mode) for path, mode in modes.items() if mode & 0o007} == {}
        assert modes[state] == 0o770
