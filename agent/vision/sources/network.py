"""What sources with an address share: settings that keep credentials out of every message, and TLS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from agent.config import ExistingFile, Line
from agent.errors import SourceError, UnreadableError
from agent.handed import secret_in
from agent.vision.sources.live import LiveConfig


class NetworkConfig(LiveConfig):
    """Settings of every live source with an address. A user name and password inside `url` are taken out of it."""

    model_config = ConfigDict(hide_input_in_errors=True)
    schemes: ClassVar[tuple[str, ...]] = ()

    url: str = Field(description="The address. A user name and password in it are never shown again.", repr=False)
    username: Line | None = Field(None, description="User name at the camera.")
    password: SecretStr | None = Field(None, description="Better: password_file.")
    password_file: ExistingFile | None = Field(None, description="A file that holds nothing but the password.")
    ca_file: ExistingFile | None = Field(None, description="CA certificates in PEM for TLS; default: the system's.")
    tls_verify: bool = Field(True, description="`false` accepts any certificate, so anyone in the network can pose as the camera.")
    timeout_s: float = Field(10.0, gt=0, le=300, description="Limit for connecting and for each read.")

    @model_validator(mode="before")
    @classmethod
    def _take_credentials_out(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or not isinstance(raw.get("url"), str):
            return raw
        if not raw["url"].isprintable() or " " in raw["url"]:  # urlsplit would drop line breaks
            raise ValueError("the url has a blank or a character that does not print in it; write %20 for a blank that is meant")
        parts = urlsplit(raw["url"])
        user, at, place = parts.netloc.rpartition("@")
        if not at:
            return raw
        name, _, password = user.partition(":")
        found = {"username": unquote(name), "password": unquote(password)}
        twice = [key for key in found if raw.get(key) is not None]
        if twice or raw.get("password_file") is not None:
            raise ValueError("give the user name and password in the url or in their own settings, not both")
        return {**raw, **{key: value for key, value in found.items() if value}, "url": urlunsplit(parts._replace(netloc=place))}

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in cls.schemes or not parts.hostname:
            raise ValueError(f"must be {cls.schemes[0]}://host/path; schemes: {', '.join(cls.schemes)}")
        _ = parts.port
        return value

    @model_validator(mode="after")
    def _complete(self) -> NetworkConfig:
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")
        if (self.password or self.password_file) and not self.username:
            raise ValueError("a password needs a username")
        return self

    @property
    def shown(self) -> str:
        """The address for messages: no credentials, no query, and no path that holds parameters, which may be a password or a token."""
        parts = urlsplit(self.url)
        path = "/…" if any(sign in parts.path for sign in "=&;") else parts.path
        return urlunsplit(parts._replace(path=path, query="", fragment=""))

    def secret(self) -> str:
        """The password, wherever it is kept; "" without one. Raises SourceError if its file cannot be read."""
        if self.password_file is None:
            return self.password.get_secret_value() if self.password else ""
        try:
            return secret_in(self.password_file)
        except UnreadableError as error:
            raise SourceError("STREAM_AUTH_FAILED", str(error)) from None

    def full_url(self) -> str:
        """The address with credentials: for the library that connects, and for nothing else."""
        if not self.username:
            return self.url
        parts = urlsplit(self.url)
        user = f"{quote(self.username, safe='')}:{quote(self.secret(), safe='')}"
        return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc}"))

    def ssl_context(self) -> ssl.SSLContext:
        """TLS as the settings say. Raises SourceError if ca_file holds no certificate."""
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
        except OSError as error:
            raise SourceError("STREAM_TLS_CERTIFICATE", f"{self.ca_file} holds no CA certificate in PEM: {error.strerror}") from None
        if not self.tls_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def ca_bundle(self) -> Path:
        """A file of CA certificates, for libraries that take no ssl.SSLContext."""
        if self.ca_file is not None:
            return self.ca_file
        system = ssl.get_default_verify_paths().cafile
        if system is not None:
            return Path(system)
        import certifi

        return Path(certifi.where())


def not_found(shown: str, why: str) -> SourceError:
    """No server answers at the address."""
    return SourceError("STREAM_NOT_FOUND", f"{shown}: {why}; check the address, the port and whether the camera is on")


def auth_failed(shown: str) -> SourceError:
    """The server wants other credentials."""
    return SourceError("STREAM_AUTH_FAILED", f"{shown}: the user name or password is refused; check username and password")


def tls_failed(shown: str, why: str) -> SourceError:
    """The server's certificate is not trusted, or TLS fails otherwise."""
    return SourceError("STREAM_TLS_CERTIFICATE", f"{shown}: TLS failed: {why}; give the camera's CA as ca_file")


def timed_out(shown: str, seconds: float) -> SourceError:
    """The server is silent."""
    return SourceError("STREAM_TIMEOUT", f"{shown}: no answer for {seconds:g} s; check camera and network")
