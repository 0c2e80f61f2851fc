"""When the certificates end that the hub needs: its own, and the broker's as the connection shows it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from agent.handed import handed
from fleet.settings import HubSettings

log = logging.getLogger(__name__)


class Certificates:
    """Files are read anew with each call, because they are renewed in their place."""

    def __init__(self, settings: HubSettings, broker: Callable[[], float | None]) -> None:
        """`broker`: when the broker's ends, where there is a connection with TLS."""
        web, door, client = settings.web.tls, settings.door, settings.broker.tls
        files = {"web.tls": web and web.cert_file, "door": door and door.certificate, "broker.tls": client and client.cert_file}
        self._files = {name: file for name, file in files.items() if file}
        self._broker = broker
        self._told = ""

    def __call__(self) -> dict[str, float]:
        """Unix time, by what each is for."""
        found = {name: ends for name, file in self._files.items() if (ends := self._ends(file)) is not None}
        ends = self._broker()
        return found if ends is None else {**found, "broker": ends}

    def _ends(self, file: Path) -> float | None:
        """The first certificate in it is the server's or client's own; None where it cannot be read, which is told once."""
        try:
            return x509.load_pem_x509_certificates(handed(file).read_bytes())[0].not_valid_after_utc.timestamp()
        except (OSError, ValueError) as error:
            if str(error) != self._told:
                log.error("when the certificate %s ends cannot be seen: %s", file, error)
            self._told = str(error)
            return None
