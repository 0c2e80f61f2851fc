"""What the uplink process writes: who may read it, and what becomes of it where it cannot be written."""

from __future__ import annotations

import os
import socket
import stat
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from agent.uplink import app
from tests.fakes import small_disk as disk
from tests.fakes.fleet import DEVICE, Process, Producer, load, peer, write_settings
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.uplinks import uplink
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


def _modes(folder: Path) -> dict[Path, int]:
    """Of it and all that is in it; nothing where a part of it went away meanwhile."""
    with suppress(FileNotFoundError):
        return {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    return {}


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
            modes = wait_until(lambda: _modes(state), 20, "a moment in which no file is replaced")
        finally:
            assert uplink.stop() == 0
        assert {str(path): oct(mode) for path, mode in modes.items() if mode & 0o007} == {}
        assert modes[state] == 0o770


@disk.on_small_disk(8)
def test_a_start_on_a_full_disk_costs_commands_and_the_note_of_the_address(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "PAGE_AGAIN_S", 0.0)
    up = f"almena/1/{DEVICE}/up"
    state = small_disk / "state"
    (state / "uplink").mkdir(parents=True)
    (state / "uplink" / "commands.sqlite").write_bytes(bytes(range(256)) * 64)
    with Mosquitto(tmp_path / "broker") as broker, peer(broker.port, f"{up}/event/#", f"{up}/reply/#") as hub:
        path = write_settings(tmp_path, broker.port, delivery="broker")
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "state_dir": str(state), "web": {"port": 0}}))
        producer = Producer(load(path))
        producer.add(3)
        (state / "outbox" / "reserve").unlink()
        filler = disk.fill(small_disk)

        def answer(identity: str) -> tuple[bool, str]:
            topic = f"{up}/reply/{identity}"
            command = {"v": 1, "id": identity, "name": "rebirth", "reply_to": topic, "expires_at": time.time() + 60}
            hub.say(f"almena/1/{DEVICE}/down/command/rebirth", command)
            reply = wait_until(lambda: hub.on(topic), 20, f"a reply to {identity}")[0].data
            return reply["ok"], reply["code"]

        try:
            with uplink(path) as device:
                wait_until(lambda: len(hub.on("/count")) >= 3, 20, "the events")
                assert answer("c-1") == (False, "not-recorded")
                served = device.status.page_trouble.removeprefix("the page is at ").partition(", ")[0]
                with urllib.request.urlopen(f"{served.rstrip('/')}/static/words.js", timeout=60) as page:
                    assert page.status == 200
                assert not (state / "run" / "page.url").exists()
                filler.unlink()
                device.look()
                assert (device.status.page_trouble, (state / "run" / "page.url").read_text()) == ("", f"{served}\n")
                assert answer("c-2") == (True, "done")
        finally:
            producer.close()
