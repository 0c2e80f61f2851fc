"""What a certificate request must be like."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity.keys import name_of
from provisioning.errors import RefusedError

UNREADABLE = (ValueError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What reading a request or certificate of somebody else may raise; each of its fields is read only when it is asked for."""


def requested_key(pem: str, name: str) -> ec.EllipticCurvePublicKey:
    """The public key of a request for `name`. Raises RefusedError: another subject, another kind of key, wishes, a wrong signature."""
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        signed = request.is_signature_valid
        subject = name_of(request.subject)
        wishes = list(request.extensions)
    except UNREADABLE as error:
        raise _refused("the certificate request cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _refused("the key must be on P-256")
    if not signed:
        raise _refused("the certificate request is not signed with its own key")
    if subject != name:
        raise _refused(f"the subject of the certificate request must be the common name {name} and nothing else")
    if wishes:
        raise _refused("the certificate request asks for extensions, which are not its to choose")
    return key


def _refused(message: str) -> RefusedError:
    return RefusedError(f"{message}: use `almena join`", message)
