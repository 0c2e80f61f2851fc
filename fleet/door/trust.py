"""Whose certificates open the door: those that the fleet's CA signed and has not revoked."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from agent.errors import AlmenaError
from agent.identity.keys import name_of
from agent.identity.protocol import NAME
from agent.serving import Problem
from agent.wire.topics import HUB

log = logging.getLogger(__name__)

UNREADABLE = (OSError, ValueError, UnsupportedAlgorithm)


class Trust:
    """The CA's certificate is the first of `ca_file`; `crl_file` is read again when it changes. Raises AlmenaError for files of no use."""

    def __init__(self, ca_file: Path, crl_file: Path | None) -> None:
        try:
            self._ca = x509.load_pem_x509_certificates(ca_file.read_bytes())[0]
        except UNREADABLE as error:
            raise AlmenaError(f"door.client_ca: {ca_file} holds no CA certificate that can be read: {error}") from error
        self._crl_file = crl_file
        self._read: tuple[int, int, int] | None = None
        self._revoked: frozenset[int] = frozenset()
        self._told = ""
        try:
            self._refresh()
        except UNREADABLE as error:
            raise AlmenaError(f"door.crl: {crl_file} cannot be used: {error}") from error

    def device(self, certificate: bytes) -> str:
        """The name of the device whose certificate (DER) TLS has verified. Raises Problem for anybody else, and for a revoked one."""
        try:
            shown = x509.load_der_x509_certificate(certificate)
            shown.verify_directly_issued_by(self._ca)
            name = name_of(shown.subject)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise Problem(403, "Not a device of this fleet", "join the fleet with `almena join URL TOKEN`") from error
        if not re.fullmatch(NAME, name) or name == HUB:
            raise Problem(403, "Not a device of this fleet", f"the certificate is for {name[:100]!r}")
        if self._is_revoked(shown.serial_number):
            raise Problem(403, "This certificate is revoked", "join the fleet anew with `almena join URL TOKEN`")
        return name

    def _is_revoked(self, serial: int) -> bool:
        """Raises Problem (503) where that cannot be known: then nobody comes in."""
        try:
            self._refresh()
        except UNREADABLE as error:
            if str(error) != self._told:
                log.error("door.crl: %s cannot be used, and so no device comes in: %s", self._crl_file, error)
            self._told = str(error)
            raise Problem(503, "The list of revoked certificates cannot be read") from error
        self._told = ""
        return serial in self._revoked

    def _refresh(self) -> None:
        if self._crl_file is None:
            return
        found = self._crl_file.stat()
        state = (found.st_mtime_ns, found.st_size, found.st_ino)
        if state == self._read:
            return
        crl = x509.load_pem_x509_crl(self._crl_file.read_bytes())
        if not crl.is_signature_valid(self._ca.public_key()):  # type: ignore[arg-type]
            raise ValueError("it is not signed by the CA of door.client_ca")
        self._revoked = frozenset(one.serial_number for one in crl)
        self._read = state
