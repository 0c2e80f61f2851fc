"""The real `almena` command as a process of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.waiting import wait_until

ALMENA = str(Path(sys.executable).with_name("almena"))


def almena(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run([ALMENA, *arguments], capture_output=True, text=True, timeout=150)


class AgentProcess:
    """`almena ARGUMENTS` that runs until it is stopped; what it prints is kept in `folder`."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._arguments = arguments
        self._out, self._err = folder / "stdout.txt", folder / "stderr.txt"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def out(self) -> str:
        """Standard output since the last start."""
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """Standard error since the last start."""
        return self._err.read_text(encoding="utf-8")

    @property
    def running(self) -> bool:
        """Started and not stopped."""
        return self._process is not None

    @property
    def page(self) -> str:
        """The page's address, as printed."""
        found = re.search(r"^almena: the page is at (http://\S+/); Ctrl-C ends it$", self.out, re.MULTILINE)
        assert found, self.out
        return found[1]

    def start(self) -> float:
        """Start it; returns after how many seconds it said that it is ready."""
        began = time.monotonic()
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen([ALMENA, *self._arguments], stdout=out, stderr=err, start_new_session=True)
        wait_until(lambda: self._ended() or re.search("^almena: ready after .*is running", self.out, re.MULTILINE), 180, "the ready line")
        assert not self._ended(), self.out + self.err
        return time.monotonic() - began

    def processes(self) -> dict[str, psutil.Process]:
        """The running processes by module: agent.vision, agent.uplink, agent.broker."""
        assert self._process is not None
        found = {}
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has just ended
                command = process.cmdline()
                if "-m" in command:
                    found[command[command.index("-m") + 1]] = process
        return found

    def stop(self) -> int:
        """Ctrl-C; the exit code. Fails if it takes 30 s, or if a process is left."""
        if self._process is None:
            return 0
        family = [self._process, *self.processes().values()]
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(30)
        self._process = None
        left = [process for process in family[1:] if isinstance(process, psutil.Process) and process.is_running()]
        assert not left, left
        return code

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None


def events(config: Path, *options: str) -> list[dict[str, Any]]:
    """What `almena events --json` prints."""
    printed = almena("events", "--json", "--limit", "10000", "--config", str(config), *options)
    assert printed.returncode == 0, printed.stderr
    return [json.loads(line) for line in printed.stdout.splitlines()]
