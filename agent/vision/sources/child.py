"""A child process that sends bytes through a pipe of its own, and that never outlives this process."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

PIPE_BYTES = 1 << 20
LINES, LINE_BYTES = 30, 500
LOOK_S = 0.1
ENDING_S = 2.0

# preexec_fn would run Python after a fork of a process with many threads, which may hang; this runs in a process of its own.
# The parent may die before prctl(2) is called, so it is looked at once more.
_LAUNCHER = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class Child:
    """The process of `command`, which is told the number of the pipe that it writes to.

    What it says on its standard output and error is kept, the last lines of it. A child that has said a line that begins with
    `failed`, and then sends nothing for 2 s, is taken as ended: it hangs on its way out. The thread that makes the child must live
    as long as the child may: prctl(2) sends the signal when that thread ends.
    """

    def __init__(self, command: Callable[[int], list[str]], stopping: threading.Event, failed: bytes) -> None:
        self._stopping = stopping
        self._failed = failed
        self._failed_at: float | None = None
        self._hangs = False
        self._reading, writing = os.pipe()
        self._lines: deque[str] = deque(maxlen=LINES)
        self._line = b""
        self._ended = False
        try:
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._reading, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command(writing)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                start_new_session=True,
                env={**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": "", "GST_DEBUG_NO_COLOR": "1"},
            )
        except (OSError, ValueError):
            os.close(self._reading)
            raise
        finally:
            os.close(writing)
        assert self._process.stdout is not None
        self._talking = self._process.stdout.fileno()
        self._poll = select.poll()
        for handle in (self._reading, self._talking):
            self._poll.register(handle, select.POLLIN)

    @property
    def said(self) -> list[str]:
        """The last lines that it printed."""
        return [*self._lines, *([self._line.decode("utf-8", "replace")] if self._line else [])]

    def fill(self, buffer: memoryview, deadline: float) -> int:
        """Fill `buffer` from the pipe; the count is short only at the end.

        Raises TimeoutError at `deadline` (monotonic) and InterruptedError at a stop.
        """
        filled = 0
        while filled < len(buffer) and not self._ended:
            if time.monotonic() > deadline:
                raise TimeoutError
            ready = {handle for handle, _ in self._poll.poll(LOOK_S * 1000)}
            if self._talking in ready:
                self._listen()
            if self._reading in ready:
                count = os.readv(self._reading, [buffer[filled:]])
                filled += count
                if self._failed_at is not None:
                    self._failed_at = time.monotonic()
                if not count:
                    self._ended = True
                    self._poll.unregister(self._reading)
            elif self._stopping.is_set():
                raise InterruptedError
            elif self._failed_at is not None and time.monotonic() > self._failed_at + ENDING_S:
                self._hangs = self._ended = True
        return filled

    def result(self) -> int | None:
        """The exit status, as subprocess has it, of a child that has come to its end; None if it hangs."""
        if self._hangs:
            return None
        deadline = time.monotonic() + ENDING_S
        while time.monotonic() < deadline and self._talking >= 0:
            if self._talking in {handle for handle, _ in self._poll.poll(LOOK_S * 1000)}:
                self._listen()
        return self._status_by(deadline)

    def close(self) -> None:
        """End it with SIGINT, or at once where it hangs, and kill what is left of it and of what it has started. Takes 4 s at most."""
        if not self._hangs:
            self._signal(signal.SIGINT)
        # Closed before the wait: a child that is about to write gets an error, and does not hang.
        os.close(self._reading)
        if self._process.stdout is not None:
            self._process.stdout.close()
        if not self._hangs:
            self._status_by(time.monotonic() + ENDING_S)
        self._signal(signal.SIGKILL)
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            log.error("process %d cannot be killed: a driver holds it; a restart of the machine frees the device", self._process.pid)

    def _status_by(self, deadline: float) -> int | None:
        """Its exit status, as subprocess has it; None if it still runs at `deadline`. It is left unreaped, so that its number, and with
        it that of its group, stays its own."""
        while (ended := os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, LOOK_S / 4))
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def _signal(self, number: int) -> None:
        """To its process group, where it and what it has started are."""
        os.killpg(self._process.pid, number)

    def _listen(self) -> None:
        """Keep what it said."""
        data = os.read(self._talking, 4096)
        if not data:
            self._poll.unregister(self._talking)
            self._talking = -1
            return
        *lines, self._line = (self._line + data).split(b"\n")
        self._line = self._line[:LINE_BYTES]
        if any(line.startswith(self._failed) for line in lines):
            self._failed_at = time.monotonic()
        self._lines.extend(line[:LINE_BYTES].decode("utf-8", "replace") for line in lines)
