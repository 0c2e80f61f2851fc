"""TLS in the settings."""

from __future__ import annotations

import ssl

from pydantic import Field, model_validator

from agent.config import Config, ExistingFile
from agent.handed import handed, require_readable


class TlsSettings(Config):
    """TLS towards a server."""

    ca_file: ExistingFile | None = Field(None, description="CA certificates in PEM; default: the system's.")
    cert_file: ExistingFile | None = Field(None, description="Client certificate in PEM.")
    key_file: ExistingFile | None = Field(None, description="Its private key in PEM.")

    @model_validator(mode="after")
    def _pair(self) -> TlsSettings:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        return self

    def context(self) -> ssl.SSLContext:
        """What a connection is made with. Raises OSError where a file cannot be used: UnreadableError or ssl.SSLError."""
        context = ssl.create_default_context(cafile=str(require_readable(self.ca_file)) if self.ca_file else None)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a CA that another one has signed is trusted without that one
        if self.cert_file is not None:
            certificate, key = handed(self.cert_file), handed(self.key_file or self.cert_file)
            context.load_cert_chain(require_readable(certificate), require_readable(key))
        return context

    def ends(self) -> float | None:
        """When the client certificate ends, Unix time; None without one, and where it cannot be read."""
        if self.cert_file is None:
            return None
        from cryptography import x509

        try:
            return x509.load_pem_x509_certificates(handed(self.cert_file).read_bytes())[0].not_valid_after_utc.timestamp()
        except (OSError, ValueError):
            return None


class WebTlsSettings(Config):
    """Certificate of the local page."""

    cert_file: ExistingFile
    key_file: ExistingFile

    def context(self) -> ssl.SSLContext:
        """What connections are accepted with. Raises OSError where a file cannot be used: UnreadableError or ssl.SSLError."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(require_readable(self.cert_file), require_readable(handed(self.key_file)))
        return context
