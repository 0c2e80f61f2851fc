"""The gallery's file: SQLite whose personal fields are sealed with AES-256-GCM."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from agent.errors import AlmenaError
from agent.outbox.guard import make_private

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS identities (id TEXT PRIMARY KEY, record BLOB NOT NULL, created_at REAL NOT NULL, expires_at REAL);
CREATE TABLE IF NOT EXISTS pictures (id TEXT PRIMARY KEY, identity TEXT NOT NULL, picture BLOB, added_at REAL NOT NULL);
CREATE INDEX IF NOT EXISTS pictures_identity ON pictures (identity);
CREATE TABLE IF NOT EXISTS templates (picture TEXT NOT NULL, model TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (picture, model));
CREATE TABLE IF NOT EXISTS clusters (id TEXT PRIMARY KEY, model TEXT NOT NULL, vectors BLOB NOT NULL, sightings INTEGER NOT NULL,
    created_at REAL NOT NULL, seen_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS receipts (id TEXT PRIMARY KEY, identity TEXT NOT NULL, reason TEXT NOT NULL, erased_at REAL NOT NULL,
    pictures INTEGER NOT NULL, templates INTEGER NOT NULL, clusters INTEGER NOT NULL, followed INTEGER NOT NULL DEFAULT 0);
"""
NONCE = 12
BUSY_S = 5.0


class GalleryError(AlmenaError):
    """The gallery cannot be read or written."""


class GalleryKeyError(GalleryError):
    """The gallery's key is missing, readable by others, or not the one that the gallery was made with."""


def load_key(key_file: Path, create: bool) -> bytes:
    """The 32 bytes of the key: the systemd credential `gallery.key` if there is one, else `key_file`.

    With `create` a missing key file is made, mode 0600. Raises GalleryKeyError if it is missing, open to others or no key.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and (credential := Path(credentials) / "gallery.key").is_file():
        return _parse(credential)
    if create and not key_file.exists():
        _make(key_file)
    if not key_file.exists():
        raise GalleryKeyError(f"{key_file} is missing, and the gallery cannot be read without it; bring it back, or move the gallery away")
    _check_private(key_file)
    return _parse(key_file)


def _make(key_file: Path) -> None:
    """Appears as a whole, and never replaces a key that another process made at the same moment."""
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


def _check_private(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise GalleryKeyError(f"{path} may be read by others (mode {mode:04o}): run `chmod 600 {path}`")


def _parse(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise GalleryKeyError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:
        key = b""
    if len(key) != 32:
        raise GalleryKeyError(f"{path} is not a gallery key: it must hold 64 hexadecimal digits")
    return key


class Store:
    """One connection, used by several threads in turn. Other processes may have the file open too."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._cipher = AESGCM(key)
        try:
            make_private(path, 0o600)  # SQLite gives its log and index the same mode
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise GalleryError(f"{path} cannot be opened ({error}); if it is damaged, move it away and enrol again") from error

    def _prepare(self) -> None:
        try:
            damage = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if damage != "ok":
                raise sqlite3.DatabaseError(damage)
            for pragma in ("journal_mode=WAL", "secure_delete=ON", "synchronous=FULL", "temp_store=MEMORY"):
                self._db.execute(f"PRAGMA {pragma}").fetchall()
            self._db.executescript(SCHEMA)
            with self.write():
                if "followed" not in [column[1] for column in self._db.execute("PRAGMA table_info(receipts)")]:
                    self._db.execute("ALTER TABLE receipts ADD COLUMN followed INTEGER NOT NULL DEFAULT 0")
                row = self._db.execute("SELECT value FROM meta WHERE key = 'key check'").fetchone()
                if row is None:
                    self._db.execute("INSERT INTO meta VALUES ('key check', ?)", (self.seal(b"almena", "key check"),))
            if row is not None:
                self.unseal(row[0], "key check")
        except BaseException:
            self._db.close()
            raise

    def seal(self, plain: bytes, place: str) -> bytes:
        """Encrypt. `place` binds the result to where it is kept, so that sealed fields cannot be exchanged."""
        nonce = secrets.token_bytes(NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, place.encode())

    def unseal(self, sealed: bytes, place: str) -> bytes:
        """Decrypt. Raises GalleryKeyError."""
        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], place.encode())
        except InvalidTag:
            raise GalleryKeyError(f"{self.path} was made with another key; bring the old key back, or move the gallery away") from None

    def seal_json(self, value: Any, place: str) -> bytes:
        """Encrypt a JSON value."""
        return self.seal(json.dumps(value).encode(), place)

    def unseal_json(self, sealed: bytes, place: str) -> Any:
        """The inverse of `seal_json`."""
        return json.loads(self.unseal(sealed, place))

    def seal_vectors(self, vectors: NDArray[np.float32], place: str) -> bytes:
        """Encrypt (N, D) float32."""
        count = np.array([len(vectors)], "<u4").tobytes()
        return self.seal(count + np.ascontiguousarray(vectors, "<f4").tobytes(), place)

    def unseal_vectors(self, sealed: bytes, place: str) -> NDArray[np.float32]:
        """The inverse of `seal_vectors`."""
        plain = self.unseal(sealed, place)
        count = int(np.frombuffer(plain[:4], "<u4")[0])
        return np.frombuffer(plain[4:], "<f4").reshape(count, -1).astype(np.float32)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read."""
        with self.lock, self._typed():
            return self._db.execute(query, values).fetchall()

    def execute(self, query: str, *values: Any) -> int:
        """Change rows inside `write`; how many."""
        with self._typed():
            return self._db.execute(query, values).rowcount

    @contextmanager
    def write(self) -> Iterator[None]:
        """One transaction."""
        with self.lock, self._typed():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _typed(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise GalleryError(f"{self.path}: {error}") from error

    def foreign_version(self) -> int:
        """Changes when another connection has committed something."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def scrub(self) -> None:
        """Leave no deleted byte in the file or in its write-ahead log. Raises GalleryError while another process reads all the time."""
        with self.lock, self._typed():
            self._db.execute("VACUUM")
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise GalleryError(f"{self.path}: erased, but its log is in use by another process; the agent clears it, or erase again")

    def close(self) -> None:
        """Close the connection. Calling it twice does no harm."""
        with self.lock:
            self._db.close()
