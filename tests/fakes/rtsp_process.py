"""The RTSP server of rtsp_server.py as a process that a test may stop, continue and kill."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.fakes.ports import free_port

SERVER = Path(__file__).with_name("rtsp_server.py")


class Server:
    """The server, once it listens."""

    def __init__(self, *options: str, port: int = 0) -> None:
        self.port = port or free_port()
        command = ["/usr/bin/python3", str(SERVER), str(self.port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        if self.process.stdout.readline().strip() != "ready":
            self.kill()
            raise AssertionError("the RTSP server does not start; install tests/system-packages.txt")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/camera"
