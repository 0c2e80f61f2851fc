"""Keys on P-256, certificate requests (PKCS #10, RFC 2986), and proofs that somebody has the key of a certificate."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.identity.errors import IdentityError

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    """A private key on P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """PKCS #8, not encrypted: for files that only their owner can read."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def key_from(pem: bytes) -> Key:
    """The private key in a PEM file. Raises IdentityError for anything but one on an elliptic curve."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise IdentityError(f"there is no readable private key: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise IdentityError("the private key is not on an elliptic curve")
    return key


def public_bytes(key: Key | ec.EllipticCurvePublicKey) -> bytes:
    """The public key as an uncompressed point (SEC 1, clause 2.3.3): equal for equal keys."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def name_of(subject: x509.Name) -> str:
    """The common name where it is all that a subject holds; empty otherwise."""
    attributes = list(subject)
    if len(attributes) != 1 or attributes[0].oid != NameOID.COMMON_NAME:
        return ""
    return str(attributes[0].value)


def request_for(name: str, key: Key) -> str:
    """A certificate request in PEM: the common name `name`, signed with the key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def prove(purpose: str, request: str, key: Key) -> str:
    """A signature by the key of a certificate that one has over a request for another, in Base64."""
    return base64.b64encode(key.sign(_claim(purpose, request), ec.ECDSA(hashes.SHA256()))).decode()


def proven(purpose: str, request: str, proof: str, certificate: x509.Certificate) -> bool:
    """Whether `proof` was made with the key of `certificate`."""
    public = certificate.public_key()
    try:
        signature = base64.b64decode(proof, validate=True)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        public.verify(signature, _claim(purpose, request), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, binascii.Error, ValueError, AssertionError):
        return False
    return True


def _claim(purpose: str, request: str) -> bytes:
    """What is signed is of no use in TLS or for another purpose."""
    return f"almena {purpose} 1\0{request}".encode()


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of a certificate."""
    return certificate.fingerprint(hashes.SHA256())


@dataclass(frozen=True)
class Pair:
    """A private key and its certificate; `pem` holds both, the key first."""

    key: Key
    certificate: x509.Certificate

    @classmethod
    def of(cls, pem: bytes) -> Pair:
        """What a file holds. Raises IdentityError where one of the two is missing or damaged, or they do not belong together."""
        key = key_from(pem)
        try:
            certificate = x509.load_pem_x509_certificate(pem)
        except ValueError as error:
            raise IdentityError(f"there is no readable certificate: {error}") from error
        return cls(key, certificate).checked()

    def checked(self) -> Pair:
        """Itself. Raises IdentityError if key and certificate do not belong together."""
        public = self.certificate.public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey) or public_bytes(public) != public_bytes(self.key):
            raise IdentityError("the certificate is for another key")
        return self

    @property
    def pem(self) -> bytes:
        """For a file."""
        return key_pem(self.key) + self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def name(self) -> str:
        """Whose it is."""
        return name_of(self.certificate.subject)

    @property
    def begins(self) -> float:
        """Seconds since 1970."""
        return self.certificate.not_valid_before_utc.timestamp()

    @property
    def ends(self) -> float:
        """Seconds since 1970."""
        return self.certificate.not_valid_after_utc.timestamp()
