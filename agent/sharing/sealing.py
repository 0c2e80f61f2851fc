"""Boxes that one device seals for another: HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM.

Whoever has a public key can seal for it: who sealed a box is said by a signature over it, see `agent.sharing.vouching`.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from agent.errors import AlmenaError

KEY_BYTES = 32
_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class SealError(AlmenaError):
    """The key is none, or the box is for another key, has another label, or was changed."""


def new_key() -> bytes:
    """A private key."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_key(key: bytes) -> bytes:
    """The public key of a private one."""
    return X25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()


def seal(plain: bytes, public: bytes, label: str) -> bytes:
    """Encrypt for the owner of `public`, bound to `label`. Raises SealError."""
    try:
        return _SUITE.encrypt(plain, X25519PublicKey.from_public_bytes(public), info=label.encode())
    except ValueError as error:
        raise SealError("that is no key to seal for") from error


def unseal(box: bytes, key: bytes, label: str) -> bytes:
    """The inverse of `seal`. Raises SealError."""
    try:
        return _SUITE.decrypt(box, X25519PrivateKey.from_private_bytes(key), info=label.encode())
    except (InvalidTag, ValueError) as error:
        raise SealError("the box is sealed for another device or another purpose, or it was changed") from error
