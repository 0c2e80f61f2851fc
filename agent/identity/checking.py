"""What a device asks of a certificate before it takes it."""

from __future__ import annotations

import time

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from agent.identity.errors import IdentityError
from agent.identity.keys import Key, Pair, name_of


def taken(issued: str, key: Key, name: str, ca: bytes) -> Pair:
    """The certificate with its key. Raises IdentityError unless it is for this key and name, signed by the CA, and has not ended."""
    try:
        certificate = x509.load_pem_x509_certificate(issued.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IdentityError("the server sent a certificate that its CA has not signed: look into the server's log") from error
    if name_of(certificate.subject) != name:
        raise IdentityError(f"the server sent a certificate for another name than {name}: look into the server's log")
    pair = Pair(key, certificate).checked()
    if time.time() >= pair.ends:
        ended = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        raise IdentityError(f"the server sent a certificate that ended on {ended}: compare the clocks here and there (timedatectl)")
    return pair
