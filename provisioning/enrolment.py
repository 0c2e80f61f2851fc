"""Who gets a certificate. Every decision is logged and kept in the register; no secret is."""

from __future__ import annotations

import base64
import binascii
import datetime
import logging
import re
import time
from collections.abc import Callable
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.keys import name_of, proven, public_bytes
from agent.identity.protocol import NAME, Broker, Issued, Join, Renew, Waiting
from agent.wire.topics import HUB
from provisioning.ca import Authority
from provisioning.errors import RefusedError, TooOftenError
from provisioning.limits import RateLimit
from provisioning.register import Known, Register
from provisioning.requests import UNREADABLE, requested_key
from provisioning.settings import FleetSettings

log = logging.getLogger(__name__)

NO_TOKEN = "this token admits nobody: it may be used, expired, replaced or for another name; ask for another (`almena fleet invite NAME`)"
NO_CERTIFICATE = (
    "this certificate is not one of this fleet, or the request does not prove that you have its key; join again with a new token"
)
REVOKED = "this device was revoked; it may join again with a new token (`almena fleet invite NAME`)"
CLONE = "its certificate was renewed with another key before: two devices may have this identity, or one was set back to an older copy"
AGAIN = "the same key again: the same certificate"
AGAIN_S = 30.0
RIGHT = 0.1
"""What a request that was right costs an address, where one that is wrong, or asks the operator something new, costs 1."""
CERTIFICATES = 10
"""So many at once for one name, and then one more each hour, or each tenth of a certificate's lifetime where that is less."""
A = TypeVar("A", Issued, Issued | Waiting)


class Enrolment:
    """Threads may share it."""

    def __init__(
        self, authority: Authority, register: Register, settings: FleetSettings, limit: RateLimit | None = None, again_s: float = AGAIN_S
    ) -> None:
        self.authority = authority
        self.limit = limit or RateLimit()
        self._register = register
        self._broker = Broker(host=settings.broker.host, port=settings.broker.port, delivery=settings.broker.delivery)
        self._lifetime = datetime.timedelta(seconds=settings.certificate_s)
        self._again_s = again_s
        self._names = RateLimit(CERTIFICATES, min(3600.0, settings.certificate_s / CERTIFICATES))

    def join(self, body: Join, address: str) -> Issued:
        """With an invitation. Raises RefusedError."""
        return self._decided("join", body.name, address, lambda: self._join(body))

    def renew(self, body: Renew, address: str) -> Issued | Waiting:
        """With the certificate that one has. Raises RefusedError."""
        return self._decided("renew", _claimed_name(body.certificate), address, lambda: self._renew(body, address))

    def claim(self, body: Renew, address: str) -> Issued | Waiting:
        """With a certificate of the factory: the operator is always asked. Raises RefusedError."""
        return self._decided("claim", _requested_name(body.request), address, lambda: self._claim(body, address))

    def _decided(self, action: str, name: str, address: str, decide: Callable[[], tuple[A, str]]) -> A:
        """Carry out and write down. Who asks has taken a request from `limit`."""
        try:
            answer, outcome = decide()
        except RefusedError as error:
            self._write_down(logging.WARNING, action, name, "refused", error.reason, address)
            raise
        waits = isinstance(answer, Waiting)
        if not (waits and outcome):
            self.limit.give_back(address, 1.0 - RIGHT)
        if outcome:
            self._write_down(logging.WARNING if waits else logging.INFO, action, name, "waits" if waits else "issued", outcome, address)
        return answer

    def _write_down(self, level: int, action: str, name: str, outcome: str, reason: str, address: str) -> None:
        log.log(level, "%s %s from %s: %s: %s", action, name or "?", address, outcome, reason)
        self._register.note(action, name, outcome, reason, address)

    def _join(self, body: Join) -> tuple[Issued, str]:
        key = requested_key(body.request, body.name)
        public = public_bytes(key)
        with self._register.transaction():
            if why := self._register.why_not(body.name, _secret(body.secret), public):
                raise RefusedError(NO_TOKEN, why)
            if known := self._of_key(public, body.name, None):
                return self._repeated(known), AGAIN
            self._register.use(body.name, public)
            return self._issue(body.name, key), "a new identity"

    def _renew(self, body: Renew, address: str) -> tuple[Issued | Waiting, str]:
        old = self._proven("renew", body, "device")
        key = requested_key(body.request, old.name)
        public = public_bytes(key)
        if public == old.public_key:
            raise RefusedError("a renewal needs a new key: delete renewal.key beside the certificate", "the key is the old one")
        with self._register.transaction():
            self._still_holds(old)
            if known := self._of_key(public, old.name, old.serial):
                return self._repeated(known), AGAIN
            doubt = self._doubt(old, public)
            if not doubt:
                return self._issue(old.name, key, old.serial), "renewed"
            return self._asked("renewal", old.name, key, doubt, address, old.serial)

    def _doubt(self, old: Known, public: bytes) -> str:
        """Why the operator is to be asked about a renewal; empty for no reason."""
        if self._register.renewed_by_another(old.serial, public):
            return CLONE
        return "its certificate has expired" if time.time() > old.ends_at else ""

    def _claim(self, body: Renew, address: str) -> tuple[Issued | Waiting, str]:
        batch = self._proven("claim", body, "claim")
        if time.time() > batch.ends_at:
            raise RefusedError("this claim has expired: make another (`almena fleet claim`)", f"the claim {batch.name} has expired")
        name = _requested_name(body.request)
        if not re.fullmatch(NAME, name) or name == HUB:
            raise RefusedError(f"{name!r} cannot be a device's name: lower-case letters, digits and dashes (--name)", "a wrong name")
        key = requested_key(body.request, name)
        with self._register.transaction():
            self._still_holds(batch)
            if known := self._of_key(public_bytes(key), name, None):
                return self._repeated(known), AGAIN
            taken = "; the name is, or was, another device's" if self._register.knows(name) else ""
            return self._asked("claim", name, key, f"a device with the claim {batch.name}{taken}", address, None)

    def _asked(
        self, kind: str, name: str, key: ec.EllipticCurvePublicKey, reason: str, address: str, renews: int | None
    ) -> tuple[Issued | Waiting, str]:
        """What the operator has said, or that he is asked now. Only what is new is written down."""
        request, new = self._register.ask(kind, name, public_bytes(key), reason, address)
        if request.decision == "refused":
            raise RefusedError(
                "the operator has refused this request; join with a token (`almena fleet invite NAME`)", "the operator said no"
            )
        if request.decision == "approved":
            self._register.issued(request.id)
            return self._issue(name, key, renews), f"approved by the operator: {reason}"
        return Waiting(waiting=request.id, reason=reason, again_after_s=self._again_s), f"{reason} (request {request.id})" if new else ""

    def _proven(self, purpose: str, body: Renew, role: str) -> Known:
        """The certificate that a request is made with. Raises RefusedError unless it is ours, in force, and its key signed the request."""
        try:
            certificate = x509.load_pem_x509_certificate(body.certificate.encode())
        except UNREADABLE as error:
            raise RefusedError(NO_CERTIFICATE, "an unreadable certificate") from error
        known = self._register.certificate(certificate.serial_number)
        if known is None or known.role != role or x509.load_pem_x509_certificate(known.pem) != certificate:
            raise RefusedError(NO_CERTIFICATE, "a certificate that is not of this fleet")
        if not proven(purpose, body.request, body.proof, certificate):
            raise RefusedError(NO_CERTIFICATE, "no proof of the certificate's key")
        if known.revoked_at is not None:
            raise RefusedError(REVOKED, "revoked")
        return known

    def _still_holds(self, known: Known) -> None:
        """Read again where nobody else writes: a revocation may have come since `_proven`. Raises RefusedError."""
        now = self._register.certificate(known.serial)
        if now is None or now.revoked_at is not None:
            raise RefusedError(REVOKED, "revoked")

    def _issue(self, name: str, key: ec.EllipticCurvePublicKey, renews: int | None = None) -> Issued:
        if wait := self._names.take(name)[0]:
            raise TooOftenError(wait)
        certificate = self.authority.device(name, key, self._lifetime)
        pem = certificate.public_bytes(Encoding.PEM)
        self._register.add(certificate, "device", pem, renews)
        return Issued(certificate=pem.decode(), broker=self._broker)

    def _of_key(self, public: bytes, name: str, renews: int | None) -> Known | None:
        """What this key was given before for the same request; None for nothing, or what has ended since. Raises RefusedError."""
        known = self._register.of_key(public)
        if known is None:
            return None
        if known.name != name or known.renews != renews or known.role != "device":
            raise RefusedError("this key has a certificate already: each request needs a key of its own", "a key that was used before")
        if known.revoked_at is not None:
            raise RefusedError(REVOKED, "revoked")
        return known if time.time() < known.ends_at else None

    def _repeated(self, known: Known) -> Issued:
        """The answer of before, for a device that did not get it."""
        return Issued(certificate=known.pem.decode(), broker=self._broker)


def _secret(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return b""


def _claimed_name(certificate: str) -> str:
    """For the log: a name that nothing proves."""
    try:
        return name_of(x509.load_pem_x509_certificate(certificate.encode()).subject)[:63]
    except UNREADABLE:
        return ""


def _requested_name(request: str) -> str:
    try:
        return name_of(x509.load_pem_x509_csr(request.encode()).subject)[:63]
    except UNREADABLE:
        return ""
