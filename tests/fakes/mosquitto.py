"""A real mosquitto on a free loopback port, with the settings that a test names."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tests.fakes.certificates import Authority
from tests.fakes.ports import free_port
from tests.waiting import wait_until


class Mosquitto:
    """The broker. `persistence` keeps every change on disk at once; `authority` turns TLS on."""

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, str] | None = None,
        authority: Authority | None = None,
        client_certificates: bool = False,
        persistence: bool = False,
        acl: str | None = None,
        extra: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "mosquitto.log"
        lines = [f"listener {self.port} 127.0.0.1", "log_dest stderr", "log_type all", "max_queued_messages 0", "user root"]
        lines += ["allow_anonymous true"] if users is None else ["allow_anonymous false", f"password_file {self.passwords}"]
        if authority is not None:
            pair = authority.server()
            lines += [f"cafile {authority.cert}", f"certfile {pair.cert}", f"keyfile {pair.key}"]
        if client_certificates:
            lines += ["require_certificate true", "use_identity_as_username true"]
        if persistence:
            lines += ["persistence true", f"persistence_location {folder}/", "autosave_on_changes true", "autosave_interval 1"]
        if acl is not None:
            (folder / "acl").write_text(acl)
            (folder / "acl").chmod(0o700)
            lines += [f"acl_file {folder / 'acl'}"]
        (folder / "mosquitto.conf").write_text("\n".join([*lines, extra, ""]))
        if users is not None:
            self.set_users(users)

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def passwords(self) -> Path:
        """The password file."""
        return self.folder / "passwords"

    def set_users(self, users: Mapping[str, str]) -> None:
        """Write the password file; takes effect at the next start."""
        self.passwords.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
        self.passwords.chmod(0o700)
        subprocess.run([_tool("mosquitto_passwd"), "-U", str(self.passwords)], check=True, capture_output=True)

    def start(self) -> Mosquitto:
        """Start it and wait until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([_tool("mosquitto"), "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log)
        wait_until(self._listens, 10, "mosquitto to listen")
        return self

    def stop(self) -> None:
        """End it in order (SIGTERM)."""
        self._end("terminate")

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        self._end("kill")

    def restart(self, *, kill: bool = False) -> None:
        """Stop or kill it, and start it again on the same port."""
        self._end("kill" if kill else "terminate")
        self.start()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Connections stay, but nobody answers (SIGSTOP): as when a network drops everything."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Mosquitto:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _end(self, how: str) -> None:
        if self._process is not None:
            getattr(self._process, how)()
            self._process.wait(60)
            self._process = None

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"mosquitto ended at once:\n{self.log()}"
        return answers(self.port)


def answers(port: int) -> bool:
    """Whether somebody listens at a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(60)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tool(name: str) -> str:
    """Path of an installed program; Debian keeps mosquitto in /usr/sbin."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    assert found, f"{name} is not installed: apt install mosquitto mosquitto-clients"
    return found
