"""`almena join`: from an invitation, or a claim certificate of the factory, to an identity and the settings that use it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from agent import settings
from agent.errors import SettingsError
from agent.identity.checking import taken
from agent.identity.client import EnrolmentServer
from agent.identity.errors import IdentityError, MistakenError, NotAnsweredError
from agent.identity.folder import IdentityFolder
from agent.identity.keys import Key, Pair, fingerprint, prove, request_for
from agent.identity.protocol import NAME, Broker, Issued, Join, Message, Renew, Token
from agent.settings import Settings
from agent.settings_file import raw_section, write_sections
from agent.wire.topics import HUB

Tell = Callable[[str], None]
UNKNOWN = Broker(host="broker.invalid", port=8883, delivery="broker")
"""What the settings are tried with before the fleet has named its broker."""


@dataclass(frozen=True)
class Claim:
    """A certificate that a batch of devices got in the factory, with its key and the fleet's CA, in one PEM file."""

    pair: Pair
    ca: bytes

    @classmethod
    def read(cls, path: Path) -> Claim:
        """Raises IdentityError."""
        try:
            pem = path.read_bytes()
            _, ca, *_ = x509.load_pem_x509_certificates(pem)
            return cls(Pair.of(pem), ca.public_bytes(Encoding.PEM))
        except OSError as error:
            raise IdentityError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, IdentityError) as error:
            raise IdentityError(f"{path} is no claim of `almena fleet claim`: it holds a key, its certificate and the CA") from error


@dataclass(frozen=True)
class Joined:
    """What came of it."""

    name: str
    ends: float
    settings: Settings


class Joining:
    """One device, its settings file, and one enrolment server."""

    def __init__(self, url: str, config: Path, tell: Tell) -> None:
        self._server = EnrolmentServer(url)
        self._config = config
        self._tell = tell
        self._settings = settings.load(config, but=("identity", "mqtt")) if config.exists() else _defaults(config)
        self._folder = IdentityFolder(self._settings.identity_dir)

    def by_token(self, text: str) -> Joined:
        """With an invitation. Whatever goes wrong until `settled`, the same may be done again: a token is used up by one key only.

        Raises IdentityError, SettingsError.
        """
        token = Token.parse(text)
        key = self._prepared(token.name, str(token))
        ca = self._server.trusted_ca(token.pin)
        body = Join(name=token.name, secret=token.secret_text, request=request_for(token.name, key))
        return self._finished(token.name, key, ca, "join", body, 0.0)

    def by_claim(self, path: Path, name: str, patience_s: float) -> Joined:
        """With a claim of the factory: waits until the operator has said yes, at most so many seconds.

        Raises IdentityError, SettingsError.
        """
        if not re.fullmatch(NAME, name) or name == HUB:
            raise MistakenError(
                f"{name!r} cannot be a device's name: lower-case letters, digits and dashes, at most 63, and not {HUB!r} (--name)"
            )
        claim = Claim.read(path)
        key = self._prepared(name, f"{name} {claim.pair.certificate.serial_number}")
        ca = self._server.trusted_ca(fingerprint(x509.load_pem_x509_certificate(claim.ca)))
        request = request_for(name, key)
        certificate = claim.pair.certificate.public_bytes(Encoding.PEM).decode()
        body = Renew(certificate=certificate, request=request, proof=prove("claim", request, claim.pair.key))
        return self._finished(name, key, ca, "claim", body, patience_s)

    def settled(self) -> None:
        """All is well, and the request is not made again. Raises IdentityError."""
        self._folder.settled()

    def _prepared(self, name: str, purpose: str) -> Key:
        """The key of the request. What the answer is to be written to is tried first: a token is not spent for nothing."""
        self._write_settings(name, UNKNOWN, rehearse=True)
        return self._folder.key(self._folder.join_key, purpose)

    def _finished(self, name: str, key: Key, ca: bytes, what: str, body: Message, patience_s: float) -> Joined:
        answer = self._answer(what, body, ca, patience_s)
        pair = taken(answer.certificate, key, name, ca)
        self._folder.joined(pair, ca)
        self._write_settings(name, answer.broker)
        self._folder.hand_over()
        return Joined(name, pair.ends, settings.load(self._config))

    def _answer(self, what: str, body: Message, ca: bytes, patience_s: float) -> Issued:
        until = time.monotonic() + patience_s
        told = ""
        again_s = 0.0
        while True:
            try:
                answer = self._server.ask(what, body, ca)
            except NotAnsweredError as error:
                if not told or time.monotonic() + again_s > until:
                    raise
                self._tell(f"{error}; asking again")
            else:
                if isinstance(answer, Issued):
                    return answer
                again_s = answer.again_after_s
                if time.monotonic() + again_s > until:
                    raise IdentityError(f"request {answer.waiting} is with the operator; give the same command again once it is approved")
                if answer.waiting != told:
                    told = answer.waiting
                    self._tell(f"request {told} is with the operator (`almena fleet approve {told}`): {answer.reason}")
            time.sleep(again_s)

    def _write_settings(self, name: str, broker: Broker, *, rehearse: bool = False) -> None:
        """Sections device, identity and mqtt; what the file says of mqtt besides the broker stays. Raises SettingsError."""
        kept = raw_section(self._config, "mqtt")
        for key in ("tls", "username", "password", "password_file", "embedded_broker"):
            kept.pop(key, None)
        mqtt = {**kept, "host": broker.host, "port": broker.port, "delivery": broker.delivery}
        sections: dict[str, Any] = {
            "device": raw_section(self._config, "device") | {"name": name},
            "identity": {"url": self._server.url},
            "mqtt": mqtt,
        }
        try:
            write_sections(self._config, sections, rehearse=rehearse)
        except OSError as error:
            raise SettingsError(
                f"{self._config} cannot be written ({error.strerror}): make room on the disk, mount it for writing, or let this user write"
                " the file and its folder; then run the same again"
            ) from error


def _defaults(config: Path) -> Settings:
    """Of a settings file that is still to be written. Raises SettingsError where its folder cannot be one."""
    try:
        return Settings.model_validate({}, context={"base": config.resolve().parent})
    except ValidationError as error:
        raise SettingsError("\n".join(f"{config}: {one['msg']}" for one in error.errors())) from error
