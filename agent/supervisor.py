"""`almena run`: the processes of one agent in the foreground, each started again when it ends, or hangs."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from agent.signals import at_stop

log = logging.getLogger(__name__)

STABLE_S = 30.0
LONGEST_WAIT_S = 30.0
STOP_S = 8.0
SILENT_S = 120.0
"""Longer than a process takes to see that it is stuck, to say why, and to end by itself."""

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """In the child: SIGTERM when what began it dies, even of SIGKILL (prctl(2); Linux only)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def beside(*arguments: str, stdout: int | None = None) -> subprocess.Popen[bytes]:
    """`python ARGUMENTS`, which ends when this process does, however that ends."""
    return subprocess.Popen([sys.executable, *arguments], stdout=stdout, preexec_fn=end_with_parent)


@dataclass
class Child:
    """One process. `restarts` counts its unexpected ends.

    It hears of its process what systemd would (sd_notify(3)): once that has said anything, it is killed when it is silent for `silent_s`.
    """

    name: str
    arguments: list[str]
    silent_s: float = SILENT_S
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    wait_s: float = 0.5
    due: float = field(default=0.0)
    _ear: socket.socket | None = None
    _heard: float | None = None

    def start(self) -> None:
        """Start it in a process group of its own, so that Ctrl-C reaches only the supervisor. Raises OSError, SubprocessError."""
        self._ear, self._heard = _listening(), None
        environment = {**os.environ, "NOTIFY_SOCKET": "@" + self._ear.getsockname()[1:].decode()}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.arguments], env=environment, start_new_session=True, preexec_fn=end_with_parent
            )
        except BaseException:
            self._deafen()
            raise
        self.started = time.monotonic()

    def look(self) -> None:
        """Start it when it is due; note when it has ended, and wait longer each time it ends soon."""
        now = time.monotonic()
        if self.process is None:
            if now >= self.due:
                try:
                    self.start()
                except (OSError, subprocess.SubprocessError) as error:
                    self._again(now, f"could not be started ({error})")
            return
        code = self.process.poll()
        if code is None:
            self._listen(now)
            return
        if now - self.started > STABLE_S:
            self.wait_s = 0.25
        self._deafen()
        self.process = None
        self._again(now, f"was killed by signal {-code}" if code < 0 else f"ended with code {code}")

    def stop(self, within_s: float) -> None:
        """SIGTERM, and SIGKILL if that has not ended it in time."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            log.error("%s did not stop in time and is killed", self.name)
            self.process.kill()
            self.process.wait()
        self._deafen()

    def _again(self, now: float, how: str) -> None:
        self.wait_s = min(self.wait_s * 2, LONGEST_WAIT_S)
        self.restarts += 1
        self.due = now + self.wait_s
        log.error("%s %s; it is started again in %.1f s", self.name, how, self.wait_s)

    def _listen(self, now: float) -> None:
        """Take its signs of life; without them for too long it hangs, and is killed."""
        assert self._ear is not None
        assert self.process is not None
        with suppress(BlockingIOError):
            while self._ear.recv(256):
                self._heard = now
        if self._heard is not None and now - self._heard > self.silent_s:
            log.error("%s has given no sign of life for %.0f s and is killed", self.name, now - self._heard)
            self._heard = None
            self.process.kill()

    def _deafen(self) -> None:
        if self._ear is not None:
            self._ear.close()


def _listening() -> socket.socket:
    """A datagram socket at an abstract address that the kernel chooses (unix(7), autobind)."""
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        ear.bind("")
    except OSError:
        ear.close()
        raise
    return ear


class Supervisor:
    """Starts children in order, looks after them, stops them in the reverse order, each within `stop_s` seconds."""

    def __init__(self, children: list[Child], on_tick: Callable[[], None] = lambda: None, stop_s: float = STOP_S) -> None:
        self.children = children
        self._on_tick = on_tick
        self._stop_s = stop_s
        self._tick_problem = ""
        self._stopping = threading.Event()

    def run(self) -> None:
        """Until SIGINT or SIGTERM."""
        at_stop(self._stopping.set)
        try:
            while not self._stopping.is_set():
                for child in self.children:
                    child.look()
                self._tick()
                self._stopping.wait(0.1)
        finally:
            self._stop()

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping.set()

    def _tick(self) -> None:
        try:
            self._on_tick()
            self._tick_problem = ""
        except Exception as error:  # noqa: BLE001 - a supervisor: the processes are kept alive whatever becomes of what is printed
            problem = f"{type(error).__name__}: {error}"
            if problem != self._tick_problem:
                log.error("what happens cannot be printed: %s", problem)
            self._tick_problem = problem

    def _stop(self) -> None:
        """Vision first, so that its last events still find the uplink, which finds the broker."""
        for child in reversed(self.children):
            child.stop(self._stop_s)
