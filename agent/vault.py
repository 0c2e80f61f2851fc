"""Keys and sealed bytes: AES-256-GCM (NIST SP 800-38D) under a key from a systemd credential or a 0600 file."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agent.errors import AlmenaError
from agent.outbox.guard import sync_folder

NONCE = 12


class VaultKeyError(AlmenaError):
    """The key is missing, readable by others, no key, or not the one that the bytes were sealed with."""


def load_key(key_file: Path, create: bool, what: str) -> bytes:
    """The 32 bytes of the key of `what` (gallery, studies): the systemd credential `<what>.key` if there is one, else `key_file`.

    With `create` a missing key file is made, mode 0600. Raises VaultKeyError if it is missing, open to others or no key.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (credential := Path(credentials) / f"{what}.key").is_file():
        return _parse(credential)
    if create and not key_file.exists():
        _make(key_file)
    if not key_file.exists():
        raise VaultKeyError(f"{key_file} is missing, and the {what} cannot be read without it; bring it back, or move the {what} away")
    _check_private(key_file)
    return _parse(key_file)


class Vault:
    """Seals and unseals under one key. Threads may share it."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, plain: bytes, place: str) -> bytes:
        """Encrypt. `place` binds the result to where it is kept, so that sealed pieces cannot be exchanged."""
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, place.encode())

    def unseal(self, sealed: bytes, place: str) -> bytes:
        """Decrypt. Raises VaultKeyError for another key, another place, and bytes that were changed."""
        try:
            return self._cipher.decrypt(sealed[:NONCE], memoryview(sealed)[NONCE:], place.encode())
        except (InvalidTag, ValueError):
            raise VaultKeyError("sealed with another key, or damaged") from None


def _make(key_file: Path) -> None:
    """Appears as a whole, durable once this returns, and never replaces a key that another process made at the same moment."""
    key_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=key_file.parent)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, key_file)
    finally:
        os.unlink(temporary)
    for folder in (key_file.parent, key_file.parent.parent):
        sync_folder(folder)


def _check_private(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise VaultKeyError(f"{path} may be read by others (mode {mode:04o}): run `chmod 600 {path}`")


def _parse(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise VaultKeyError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:
        key = b""
    if len(key) != 32:
        raise VaultKeyError(f"{path} is not a key: it must hold 64 hexadecimal digits")
    return key
