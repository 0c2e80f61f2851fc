"""The fleet's certificate authority: P-256, ECDSA with SHA-256, X.509 v3 by RFC 5280."""

from __future__ import annotations

import datetime
import errno
import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from agent.identity.keys import Key, Pair, fingerprint, new_key, public_bytes
from engines.files import replacing
from provisioning.errors import FleetError

DAY = datetime.timedelta(days=1)
CA_LIFETIME = 3650 * DAY
SKEW = datetime.timedelta(hours=1)
"""Certificates begin so much earlier, for devices whose clock is a little behind."""
KDF_ROUNDS = 600_000
PASSPHRASE_LETTERS = 12
COMMON_NAME_LETTERS = 64
"""At most (RFC 5280, appendix A.1); of host names, only the alternative names count (RFC 6125, clause 6.4.4)."""
CLAIM_USAGE = ObjectIdentifier("2.25.244093720187460174839110257684920573311")
"""What a claim certificate is for, and nothing else: no TLS server takes it. A UUID as an OID (ITU-T X.667)."""


@dataclass(frozen=True)
class Revoked:
    """A line of the list of revoked certificates."""

    serial: int
    at: float


class Authority:
    """Key and certificate of the CA. `roots` are certificates of those who signed it, if somebody has."""

    def __init__(self, key: Key, certificate: x509.Certificate, roots: Sequence[x509.Certificate] = ()) -> None:
        self.key = key
        self.certificate = certificate
        self.roots = tuple(roots)

    @classmethod
    def new(cls, name: str) -> Authority:
        """A CA that signs itself."""
        key = new_key()
        subject = _name(name)
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = _builder(subject, subject, key.public_key(), now - DAY, now + CA_LIFETIME)
        for extension, critical in _ca_extensions():
            builder = builder.add_extension(extension, critical)
        return cls(key, builder.sign(key, hashes.SHA256()))

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def chain(self) -> bytes:
        """The certificate, and those of the CAs above it."""
        return b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.roots))

    @property
    def links(self) -> bytes:
        """What a server shows behind its own certificate, for callers that know the root alone."""
        return b"".join(one.public_bytes(Encoding.PEM) for one in (self.certificate, *self.roots[:-1]))

    @property
    def pin(self) -> bytes:
        """What devices know the CA by."""
        return fingerprint(self.certificate)

    @property
    def ends(self) -> datetime.datetime:
        """When the CA's own certificate ends."""
        return self.certificate.not_valid_after_utc

    def device(self, name: str, key: ec.EllipticCurvePublicKey, lifetime: datetime.timedelta) -> x509.Certificate:
        """A client certificate: the name is what the broker knows the client by."""
        return self._issue(name, key, lifetime, ExtendedKeyUsageOID.CLIENT_AUTH, [x509.DNSName(name)])

    def claim(self, name: str, key: ec.EllipticCurvePublicKey, lifetime: datetime.timedelta) -> x509.Certificate:
        """A certificate that proves where a device comes from, and opens no TLS session anywhere."""
        return self._issue(name, key, lifetime, CLAIM_USAGE, [])

    def client(self, name: str, lifetime: datetime.timedelta) -> Pair:
        """A client certificate of the fleet's own, with its key."""
        key = new_key()
        return Pair(key, self._issue(name, key.public_key(), lifetime, ExtendedKeyUsageOID.CLIENT_AUTH, []))

    def server(self, names: Sequence[str], lifetime: datetime.timedelta) -> Pair:
        """A server certificate for host names and addresses, with its key."""
        key = new_key()
        alternatives = [_alternative(name) for name in names]
        name = names[0][:COMMON_NAME_LETTERS]
        return Pair(key, self._issue(name, key.public_key(), lifetime, ExtendedKeyUsageOID.SERVER_AUTH, alternatives))

    def crl(self, revoked: Iterable[Revoked]) -> bytes:
        """The list of revoked certificates, in PEM. It is in force as long as the CA: a broker that did not get a newer one goes on."""
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject).last_update(now - SKEW).next_update(self.ends)
        )
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
        builder = builder.add_extension(x509.CRLNumber(int(now.timestamp() * 1000)), False)
        for one in revoked:
            at = datetime.datetime.fromtimestamp(one.at, datetime.timezone.utc)
            entry = x509.RevokedCertificateBuilder().serial_number(one.serial).revocation_date(at).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _issue(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        lifetime: datetime.timedelta,
        usage: ObjectIdentifier,
        alternatives: Sequence[x509.GeneralName],
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            _builder(_name(name), self.certificate.subject, key, now - SKEW, min(now + lifetime, self.ends))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def sealed(key: Key, passphrase: str) -> bytes:
    """The CA's key, encrypted with a passphrase: PKCS #12 with PBES2, AES-256 and PBKDF2 (SHA-256); `openssl pkcs12` reads it, too.

    Raises FleetError for a passphrase that is too short.
    """
    if len(passphrase) < PASSPHRASE_LETTERS:
        raise FleetError(f"the passphrase of the CA's key needs at least {PASSPHRASE_LETTERS} letters")
    encryption = (
        PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(KDF_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(passphrase.encode())
    )
    return pkcs12.serialize_key_and_certificates(b"almena fleet", key, None, None, encryption)


class KeyFile:
    """What `sealed` has made, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, passphrase: str) -> Key:
        """Raises FleetError."""
        try:
            key, _, _ = pkcs12.load_key_and_certificates(self._path.read_bytes(), passphrase.encode())
        except FileNotFoundError:
            raise FleetError(f"{self._path} is missing: this folder holds no CA; `almena fleet init` makes one") from None
        except OSError as error:
            raise FleetError(f"{self._path} cannot be read ({error.strerror}): run as the user who owns the fleet's folder") from error
        except ValueError as error:
            raise FleetError(f"{self._path} cannot be opened with this passphrase, or is damaged") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise FleetError(f"{self._path} holds no key on an elliptic curve")
        return key


def write_private(path: Path, content: bytes, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """A file that appears as a whole, its owner's (user and group) from the beginning, durable when this returns. Raises OSError.

    What root writes belongs to the owner of the folder, unless `owner` says otherwise: a service may have to read it.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with replacing(path) as part, open(os.open(part, flags, 0o600), "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        give(file.fileno(), path.parent, owner)


def give(file: int, folder: Path, owner: tuple[int, int] | None = None) -> None:
    """Root gives an open file to `owner`, or to who owns `folder`; for anybody else, nothing. Raises OSError.

    Not by its path: who owns the folder can put a link there meanwhile.
    """
    there = folder.stat()
    if os.geteuid() == 0:
        os.fchown(file, *(owner or (there.st_uid, there.st_gid)))


def ca_request(name: str, key: Key) -> bytes:
    """A request by which an external CA can make this one its subordinate."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(name))
    for extension, critical in _ca_extensions():
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def signed_by_others(pem: bytes, key: Key) -> Authority:
    """The CA as an external one has signed it: its certificate and then those above. Raises FleetError for what cannot work."""
    try:
        own, *above = x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise FleetError(f"that holds no certificates in PEM: {error}") from error
    public = own.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or public_bytes(public) != public_bytes(key):
        raise FleetError("the first certificate is not for this CA's key: have the fleet's ca.csr signed")
    try:
        constraints = own.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = own.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise FleetError(
            "the certificate is not for a CA (no basic constraints or key usage): have it signed as a subordinate CA"
        ) from error
    if not (constraints.ca and usage.key_cert_sign and usage.crl_sign):
        raise FleetError("the certificate may not sign certificates and revocation lists: have it signed as a subordinate CA")
    if not above or above[-1].subject != above[-1].issuer:
        raise FleetError("the certificates of the CAs above are missing: put them into the file behind the first, the root last")
    for lower, upper in zip([own, *above], above, strict=False):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise FleetError(f"{upper.subject.rfc4514_string()} has not signed {lower.subject.rfc4514_string()}") from error
    return Authority(key, own, above)


def _ca_extensions() -> list[tuple[x509.ExtensionType, bool]]:
    return [(x509.BasicConstraints(ca=True, path_length=0), True), (_usage(signs_certificates=True), True)]


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begins: datetime.datetime, ends: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
