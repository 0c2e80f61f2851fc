"""A fleet of its own, with a mosquitto that runs on loopback with exactly the configuration that `almena fleet broker-config` writes."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.keys import Pair, new_key
from provisioning.broker import write_configuration
from provisioning.ca import Authority
from provisioning.client import Endpoint
from provisioning.errors import FleetError
from provisioning.register import Register
from provisioning.revocation import Revocation, reload_by, revoke
from provisioning.settings import BrokerSettings

ADDRESS = "127.0.0.1"
STARTS_WITHIN_S = 30.0
LIFETIME = timedelta(days=1)


class Trial:
    """In `folder`, which is empty. Used as a context: the broker runs within."""

    def __init__(self, folder: Path, authority: Authority | None = None, port: int = 0) -> None:
        self.authority = authority or Authority.new("Trial fleet")
        self.register = Register(folder / "register.sqlite")
        self.folder = folder / "broker"
        self.broker = BrokerSettings(host=ADDRESS, port=port or _free_port(), bind=ADDRESS, user=pwd.getpwuid(os.geteuid()).pw_name)
        self.endpoint = Endpoint(ADDRESS, self.broker.port, self.authority.pem)
        self.log = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        write_configuration(self.folder, self.broker, self.authority, self.register)

    @property
    def hub(self) -> Pair:
        """The hub's certificate, as written."""
        return Pair.of((self.folder / "hub.pem").read_bytes())

    def device(self, name: str) -> Pair:
        """A certificate as enrolment gives it."""
        key = new_key()
        certificate = self.authority.device(name, key.public_key(), LIFETIME)
        self.register.add(certificate, "device", certificate.public_bytes(Encoding.PEM))
        return Pair(key, certificate)

    def claim(self, batch: str) -> Pair:
        """A claim certificate of the factory."""
        key = new_key()
        return Pair(key, self.authority.claim(batch, key.public_key(), LIFETIME))

    def revoke(self, name: str) -> Revocation:
        """As `almena fleet revoke` does."""
        return revoke(
            name, self.authority, self.register, self.folder, self.endpoint, reload_by((), self.folder / "fleet.yaml", self.folder)
        )

    def start(self) -> None:
        """Start the broker, and wait until it listens. Raises FleetError."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([_mosquitto(), "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log)
        deadline = time.monotonic() + STARTS_WITHIN_S
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((ADDRESS, self.broker.port)) == 0:
                    return
            time.sleep(0.02)
        self.stop()
        raise FleetError(f"mosquitto does not start with the fleet's configuration:\n{self.log.read_text(errors='replace')}")

    def stop(self, *, kill: bool = False) -> None:
        """End the broker, in order or as a power cut would."""
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            self._process.wait(60)
            self._process = None

    def __enter__(self) -> Trial:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        self.register.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port: int = probe.getsockname()[1]
        return port


def _mosquitto() -> str:
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if not found:
        raise FleetError("mosquitto is not installed here: apt install mosquitto")
    return found
