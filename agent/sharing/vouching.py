"""Texts signed with the key of a device's certificate, and how far another device believes them."""

from __future__ import annotations

import time

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from agent.identity.errors import IdentityError
from agent.identity.keys import Pair, name_of, prove, proven
from agent.sharing.protocol import Signed
from agent.wire import HUB

KEY, BOX, RECEIPT = "sharing key", "sealed identity", "erasure receipt"
"""Purposes: a signature for one is of no use for another."""
SKEW_S = 300.0


class VouchError(IdentityError):
    """The signature is not one of that device."""


def signed(pair: Pair, purpose: str, text: str) -> Signed:
    """The text as the owner of the pair says it."""
    certificate = pair.certificate.public_bytes(Encoding.PEM).decode()
    return Signed(certificate=certificate, proof=prove(purpose, text, pair.key))


def require(given: Signed, purpose: str, text: str, device: str, ca: bytes, at: float | None = None) -> None:
    """Raises VouchError unless a certificate that the CA (PEM) gave `device`, in force at the moment `at`, has signed the text."""
    moment = time.time() if at is None else at
    try:
        certificate = x509.load_pem_x509_certificate(given.certificate.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        begins, ends = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        named = name_of(certificate.subject)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise VouchError(f"the certificate shown for {device} is not one of this fleet's") from error
    if named != device or device == HUB or ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise VouchError(f"the certificate shown for {device} is for another name or purpose")
    if not begins - SKEW_S <= moment <= ends + SKEW_S:
        raise VouchError(f"the certificate of {device} is not in force; compare the clocks here and there")
    if not proven(purpose, text, given.proof, certificate):
        raise VouchError(f"this is not signed by {device}")
