"""The fleet's CA, the hub's door with a list of revoked certificates, and devices with certificates of that CA."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from agent.identity.folder import IdentityFolder
from agent.identity.keys import Pair, new_key
from fleet.settings import DoorSettings
from provisioning.ca import Authority, Revoked, write_private

DAY = timedelta(days=1)


class DoorSite:
    """Files in `folder`."""

    def __init__(self, folder: Path, authority: Authority | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.authority = authority or Authority.new("Test fleet")
        self._revoked: list[Revoked] = []
        self._ca = folder / "ca.pem"
        self._ca.write_bytes(self.authority.chain)
        write_private(folder / "door.pem", self.authority.server(["localhost", "127.0.0.1"], DAY).pem)
        self._write_crl()

    def settings(self, **changes: object) -> DoorSettings:
        """The section `door` of a hub's settings, at a free port of loopback."""
        pair = self._folder / "door.pem"
        files = {"certificate": pair, "key_file": pair, "client_ca": self._ca, "crl": self._folder / "crl.pem"}
        return DoorSettings.model_validate({"host": "127.0.0.1", "port": 0, **files, **changes})

    def device(self, name: str, authority: Authority | None = None, folder: Path | None = None) -> IdentityFolder:
        """The identity of a device that has joined; its certificate may be of another CA."""
        identity = IdentityFolder(folder or self._folder / name)
        key = new_key()
        certificate = (authority or self.authority).device(name, key.public_key(), DAY)
        identity.joined(Pair(key, certificate), self.authority.chain)
        return identity

    def revoke(self, identity: IdentityFolder) -> None:
        """As `almena fleet revoke` does."""
        self._revoked.append(Revoked(identity.pair().certificate.serial_number, time.time()))
        self._write_crl()

    def _write_crl(self) -> None:
        write_private(self._folder / "crl.pem", self.authority.crl(self._revoked))
