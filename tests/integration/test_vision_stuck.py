"""A library that hangs within the vision process: it says so and ends, so that whoever supervises it starts it again."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

from tests.fakes.photographs import Photographer
from tests.waiting import wait_until


def test_a_stuck_stream_ends_the_process(tmp_path: Path, portraits: Mapping[str, Path]) -> None:
    inbox, config = tmp_path / "inbox", tmp_path / "almena.yaml"
    inbox.mkdir()
    source = {"type": "folder", "path": str(inbox), "settle_s": 0}
    stream = {"name": "photos", "source": source, "tasks": [{"type": "hanging"}]}
    config.write_text(yaml.safe_dump({"device": {"name": "dev-1"}, "state_dir": str(tmp_path / "state"), "streams": [stream]}))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, (tmp_path / "log").open("wb") as log:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        command = [sys.executable, "-m", "tests.fakes.stuck_vision", str(config)]
        with subprocess.Popen(command, env=environment, stderr=log) as vision:
            assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"WATCHDOG=1"]
            Photographer(portraits).take(0, 1, inbox / "0.jpg")
            manager.settimeout(3)
            wait_until(lambda: silent(manager), 20, "the signs of life to cease")
            assert vision.wait(120) == 1
    said = (tmp_path / "log").read_text()
    assert "photos: running" in said
    assert re.search(r"no progress in a stream, its models or storing for \d+ s; the process ends, to be started again", said)
    assert (inbox / "0.jpg").exists(), "its events were never stored, so it is not done"


def silent(manager: socket.socket) -> bool:
    """No word for as long as the socket's time-out."""
    try:
        manager.recv(100)
    except TimeoutError:
        return True
    return False
