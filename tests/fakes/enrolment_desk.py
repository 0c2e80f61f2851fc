"""An enrolment with its register, without a server."""

from __future__ import annotations

import base64

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.keys import Key, Pair, new_key, prove, request_for
from agent.identity.protocol import Issued, Join, Renew, Waiting
from provisioning.ca import Authority
from provisioning.enrolment import Enrolment
from provisioning.register import Register
from provisioning.settings import BrokerSettings, FleetSettings

HERE = "192.0.2.7"
CA = Authority.new("Test fleet")
SETTINGS = FleetSettings(url="https://fleet.example.org:8643", broker=BrokerSettings(host="broker.example.org"))


class Desk:
    """An enrolment with its register, and a device that talks to it."""

    def __init__(self, register: Register) -> None:
        self.register = register
        self.enrolment = Enrolment(CA, register, SETTINGS)

    def join(self, name: str, secret: bytes, key: Key, request: str | None = None) -> Issued:
        text = base64.urlsafe_b64encode(secret).decode().rstrip("=")
        return self.enrolment.join(Join(name=name, secret=text, request=request_for(name, key) if request is None else request), HERE)

    def joined(self, name: str) -> Pair:
        key = new_key()
        return Pair(key, certificate_of(self.join(name, self.register.invite(name, 60.0), key)))

    def renew(self, old: Pair, key: Key, signer: Key | None = None) -> Issued | Waiting:
        return self.enrolment.renew(renewal_body("renew", old, key, old.name, signer), HERE)

    def outcomes(self) -> list[tuple[str, str, str]]:
        return [(action, outcome, reason) for _, action, _, outcome, reason, _ in self.register.decisions(100)]


def renewal_body(purpose: str, old: Pair, key: Key, name: str, signer: Key | None = None) -> Renew:
    request = request_for(name, key)
    certificate = old.certificate.public_bytes(Encoding.PEM).decode()
    return Renew(certificate=certificate, request=request, proof=prove(purpose, request, signer or old.key))


def certificate_of(answer: Issued | Waiting) -> x509.Certificate:
    assert isinstance(answer, Issued)
    return x509.load_pem_x509_certificate(answer.certificate.encode())
