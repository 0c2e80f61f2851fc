"""The certificate of the session: the one in force, and after a renewal the new one until the broker has accepted it.

device.pem ──► session ──► renewed: next.pem ──► tried ──► accepted: it becomes device.pem
                  ▲                                └── not accepted: the next attempt is with device.pem, the one after with next.pem
                  └──────────────────────────────────────┘
"""

from __future__ import annotations

import errno
import logging
import ssl

from agent.identity.errors import IdentityError
from agent.identity.folder import IdentityFolder
from agent.tls_settings import TlsSettings

log = logging.getLogger(__name__)


class Credentials:
    """Used by the thread that keeps the session up."""

    def __init__(self, tls: TlsSettings, folder: IdentityFolder, device: str) -> None:
        self._tls = tls
        self._folder = folder
        self._device = device
        self._trying = False

    def context(self) -> ssl.SSLContext:
        """For the next attempt. Raises OSError, of which ssl.SSLError is a kind."""
        try:
            name = self._folder.pair().name
            self._trying = not self._trying and self._folder.renewed() is not None
        except IdentityError as error:
            raise OSError(errno.ENOKEY, str(error)) from error
        if name != self._device:
            raise OSError(errno.EKEYREJECTED, f"the certificate is for {name}: set device.name to it, or run `almena join URL TOKEN`")
        if not self._trying:
            return self._tls.context()
        return self._tls.model_copy(update={"cert_file": self._folder.next, "key_file": self._folder.next}).context()

    def accepted(self) -> None:
        """The broker has accepted what `context` gave last."""
        if not self._trying:
            return
        try:
            self._folder.promote()
        except IdentityError as error:
            log.error("the renewed certificate is accepted and cannot be put in its place: %s", error)
            return
        self._trying = False
        log.info("the broker has accepted the renewed certificate; the old one is deleted")
