"""The device's side of enrolment: the fleet's CA is checked against a fingerprint before anything secret is sent."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from datetime import datetime, timezone
from typing import Any, TypeVar

from cryptography import x509
from pydantic import ValidationError

from agent.https import ask
from agent.identity.address import Address
from agent.identity.errors import IdentityError, MistakenError, NotAnsweredError
from agent.identity.keys import fingerprint
from agent.identity.protocol import PREFIX, Ca, Issued, Message, Waiting

WITHIN_S = 10.0
CLOCK_MAY_BE_OFF_S = 300.0
LARGEST_ANSWER = 65536
M = TypeVar("M", bound=Message)


class EnrolmentServer:
    """One at an `https://` address. Raises MistakenError where it is another kind of address."""

    def __init__(self, url: str) -> None:
        try:
            address = Address.of(url)
        except ValueError as error:
            raise MistakenError(str(error)) from error
        self.url = url.rstrip("/")
        self._address = address

    def trusted_ca(self, pin: bytes) -> bytes:
        """The fleet's CA in PEM, of which nothing is believed but what fits the fingerprint. Raises IdentityError.

        Nothing secret is sent over this connection, whose other end is not known yet.
        """
        unknown = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unknown.check_hostname = False
        unknown.verify_mode = ssl.CERT_NONE
        answer = self._parse(Ca, self._call("GET", "/ca", unknown))
        try:
            ca = x509.load_pem_x509_certificate(answer.certificate.encode())
        except ValueError as error:
            raise IdentityError(f"{self.url} is no enrolment server of Almena: its CA cannot be read") from error
        if fingerprint(ca) != pin:
            raise IdentityError(
                f"the CA at {self.url} is not the one of the token: it has the fingerprint {fingerprint(ca).hex()}, expected {pin.hex()}."
                " The token may be of another fleet, or somebody answers in the server's place. Nothing was sent;"
                " compare with `almena fleet ca show` on the fleet's machine"
            )
        _check_clock(answer.time, ca)
        return answer.certificate.encode()

    def ask(self, what: str, body: Message, ca: bytes) -> Issued | Waiting:
        """`join`, `renew` or `claim`, over TLS with a server that the CA vouches for. Raises IdentityError."""
        try:
            context = ssl.create_default_context(cadata=ca.decode())
        except (OSError, ValueError) as error:
            raise IdentityError("ca.pem beside the certificate is damaged: run `almena join URL TOKEN` with a new token") from error
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        answer = self._call("POST", f"/{what}", context, body.model_dump_json().encode())
        return self._parse(Waiting, answer) if "waiting" in answer else self._parse(Issued, answer)

    def _call(self, method: str, path: str, context: ssl.SSLContext, body: bytes | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            found = ask(self._address, method, PREFIX + path, context, body, headers, within_s=WITHIN_S, largest=LARGEST_ANSWER)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        status, wait = found.status, found.headers.get("Retry-After")
        answer = _json(found.content)
        if status not in (200, 202):
            raise self._refused(status, str(answer.get("detail") or answer.get("title") or ""), wait)
        return answer

    def _unreachable(self, error: Exception) -> IdentityError:
        host, port = self._address.host, self._address.port
        if isinstance(error, ssl.SSLCertVerificationError):
            return IdentityError(
                f"the certificate of {self.url} is not accepted: {error.verify_message}; check the host name in the address, and the clocks"
                " here and there (timedatectl)"
            )
        if isinstance(error, ssl.SSLError):
            return IdentityError(f"no TLS with {self.url} ({error.reason or error}): is it the address of `almena fleet enrol-server`?")
        if isinstance(error, socket.gaierror):
            return NotAnsweredError(f"there is no host {host!r}: check the address and the name server")
        if isinstance(error, ConnectionRefusedError):
            return NotAnsweredError(f"nothing listens at {host}:{port}: check that `almena fleet enrol-server` runs there")
        if isinstance(error, TimeoutError):
            return NotAnsweredError(f"{host}:{port} does not answer: check the network and the address")
        return NotAnsweredError(f"{host}:{port} broke off ({error}): try again")

    def _refused(self, status: int, detail: str, wait: str | None) -> IdentityError:
        if status == 429:
            return NotAnsweredError(f"{self.url} has had too many requests from this address, or for this device: wait {wait or 60} s")
        if status >= 500:
            return NotAnsweredError(f"{self.url} cannot answer now ({status}): look into the log of `almena fleet enrol-server`")
        if status == 404:
            return IdentityError(f"{self.url} is no enrolment server of Almena: check the address")
        return IdentityError(f"{self.url} refused: {detail or status}")

    def _parse(self, kind: type[M], answer: dict[str, Any]) -> M:
        try:
            return kind.model_validate(answer)
        except ValidationError as error:
            raise IdentityError(f"{self.url} is no enrolment server of Almena, or one of another version: check the address") from error


def _json(content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _check_clock(there: float, ca: x509.Certificate) -> None:
    """The server's clock is hearsay, which is enough to say what is wrong, and too little to do anything about it."""
    here = time.time()
    valid = ca.not_valid_before_utc.timestamp() <= here <= ca.not_valid_after_utc.timestamp()
    if valid and abs(here - there) <= CLOCK_MAY_BE_OFF_S:
        return
    raise IdentityError(
        f"the clock of this device says {_moment(here)}, that of the server {_moment(there)}: certificates need the right time. Set it"
        " (`timedatectl set-ntp true`, or `date --set`), and run the same again; the token was not used"
    )


def _moment(at: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d %H:%M} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{at:g} s after 1970"
