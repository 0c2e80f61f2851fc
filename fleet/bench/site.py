"""A broker and an ingest as processes of their own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil
from sqlalchemy import Engine, func, select

from agent.errors import AlmenaError
from fleet.store.tables import events

STARTS_WITHIN_S = 60.0
LOOK_S = 0.02
CONFIGURATION = """listener {port} 127.0.0.1
allow_anonymous true
max_inflight_messages 1000
max_queued_messages 0
log_type error
"""


def wait(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Raises AlmenaError where it does not come true."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AlmenaError(f"{what} took longer than {timeout_s:g} s")
        time.sleep(LOOK_S)


class Broker:
    """mosquitto on a free port of loopback. It keeps nothing on the disk and queues without a limit."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
        if program is None:
            raise AlmenaError("mosquitto is not installed here: apt install mosquitto")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        (folder / "mosquitto.conf").write_text(CONFIGURATION.format(port=self.port))
        self._process = subprocess.Popen([program, "-c", str(folder / "mosquitto.conf")], stdout=subprocess.DEVNULL)

    def __enter__(self) -> Broker:
        wait(self._answers, STARTS_WITHIN_S, "the start of mosquitto")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Ingest:
    """`python -m fleet.ingest` on a database, ended with the context; its session at the broker outlives it."""

    def __init__(self, folder: Path, port: int, url: str, engine: Engine) -> None:
        self._log = folder / "ingest.log"
        self._command = [sys.executable, "-m", "fleet.ingest", "--port", str(port), "--store", url, "--mqtt", "5"]
        self._engine = engine
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Until it has its session."""
        self._log.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        wait(lambda: b"connected to" in self._log.read_bytes(), STARTS_WITHIN_S, f"the start of the ingest (its log: {self._log})")

    def stop(self) -> None:
        """After the batch in hand."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()

    def cpu_s(self) -> float:
        """What it has spent of processors."""
        assert self._process is not None
        spent = psutil.Process(self._process.pid).cpu_times()
        return float(spent.user + spent.system)

    def memory_mb(self) -> float:
        """Resident set."""
        assert self._process is not None
        return float(psutil.Process(self._process.pid).memory_info().rss) / 1e6

    def newest(self) -> int:
        """The number of the newest event that is stored."""
        with self._engine.connect() as connection:
            return int(connection.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one())

    def count(self, spools: list[str]) -> int:
        """How many events of these spools are stored."""
        with self._engine.connect() as connection:
            query = select(func.count()).select_from(events).where(events.c.spool.in_(spools))
            return int(connection.execute(query).scalar_one())
