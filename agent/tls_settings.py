"""TLS in the settings."""

from __future__ import annotations

import ssl

from pydantic import Field, model_validator

from agent.config import Config, ExistingFile


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
        """What a connection is made with. Raises OSError, of which ssl.SSLError is a kind, where a file cannot be used."""
        context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context
