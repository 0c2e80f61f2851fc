"""A real PostgreSQL on a free loopback port, run by a user who is not root. Its process may be killed, this machine not: no fsync."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.fakes.ports import free_port
from tests.waiting import wait_until


class Postgres:
    """The server. Its folder is below the temporary folder of the system: its user cannot enter those of the tests."""

    def __init__(self) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="almena-postgres-"))
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self._folder, self._user)
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-D", str(self._data), "-U", "almena", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")

    def url(self, name: str = "hub") -> str:
        """The URL of a new database."""
        with (self._folder / "log").open("ab") as log:
            subprocess.run([_program("createdb"), *self._address(), name], check=True, stdout=log, stderr=log)
        return f"postgresql://almena@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-k", str(self._folder), "-c", "fsync=off"]
        with (self._folder / "log").open("ab") as log:
            command = [_program("postgres"), "-D", str(self._data), *options]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self._folder)
        ask = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_until(lambda: subprocess.run(ask, check=False).returncode == 0, 30, "PostgreSQL to answer")

    def kill(self) -> None:
        """At once: no connection is closed in order, and what no commit has made last is gone."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End it."""
        self._end(signal.SIGINT)

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()
        shutil.rmtree(self._folder)

    def _address(self) -> Sequence[str]:
        return ("-h", "127.0.0.1", "-p", str(self.port), "-U", "almena")

    def _end(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(60)
        self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([_program(program), *arguments], check=True, stdout=subprocess.DEVNULL, user=self._user, cwd=self._folder)


def _program(name: str) -> str:
    """Debian keeps the server's programs away from the path."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    found = shutil.which(name, path=os.pathsep.join([*(str(home) for home in reversed(homes)), os.environ["PATH"]]))
    assert found is not None, f"{name} is missing: install the package postgresql"
    return found
