"""What the fleet knows of its devices: invitations, certificates, requests that wait, and every decision. One SQLite file."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from agent.identity.keys import name_of, public_bytes
from agent.transaction import transaction
from provisioning.ca import Revoked, give
from provisioning.errors import FleetError

KEPT_DECISIONS = 10_000
KEPT_REQUESTS = 1_000
KEPT_S = 90 * 86400.0
"""So long certificates and invitations are kept after their end."""
NOTHING = bytes(32)
Role = Literal["device", "claim", "fleet"]

_TABLES = """
CREATE TABLE IF NOT EXISTS invitations (
    name TEXT PRIMARY KEY, hash BLOB NOT NULL, expires_at REAL NOT NULL, used_by BLOB);
CREATE TABLE IF NOT EXISTS certificates (
    serial TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, public_key BLOB NOT NULL, pem BLOB NOT NULL,
    begins_at REAL NOT NULL, ends_at REAL NOT NULL, revoked_at REAL, renews TEXT);
CREATE INDEX IF NOT EXISTS by_name ON certificates (name);
CREATE INDEX IF NOT EXISTS by_key ON certificates (public_key);
CREATE INDEX IF NOT EXISTS by_predecessor ON certificates (renews);
CREATE INDEX IF NOT EXISTS revoked ON certificates (ends_at) WHERE revoked_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS requests (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, public_key BLOB NOT NULL, reason TEXT NOT NULL, asked_at REAL NOT NULL,
    address TEXT NOT NULL, decision TEXT);
CREATE INDEX IF NOT EXISTS asked_for ON requests (name, public_key);
CREATE TABLE IF NOT EXISTS decisions (
    number INTEGER PRIMARY KEY, at REAL NOT NULL, action TEXT NOT NULL, name TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL,
    address TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Known:
    """A certificate that the fleet has given out."""

    serial: int
    name: str
    role: Role
    public_key: bytes
    pem: bytes
    begins_at: float
    ends_at: float
    revoked_at: float | None
    renews: int | None
    """The serial number of the certificate in whose place it was given out."""


@dataclass(frozen=True)
class Request:
    """Something that the operator decides. `decision`: empty until then, approved, refused; issued once it has led to a certificate."""

    id: str
    kind: str
    name: str
    public_key: bytes
    reason: str
    asked_at: float
    address: str
    decision: str


class Register:
    """Threads and processes may share it."""

    def __init__(self, path: Path) -> None:
        """Raises FleetError where a link is in its place: root would write, and give away, what that leads to."""
        links = [str(one) for end in ("", "-wal", "-shm", "-journal") if (one := Path(f"{path}{end}")).is_symlink()]
        if links:
            raise FleetError(
                f"{', '.join(links)}: a link, which is not followed; put the file itself there, or mount a disk at {path.parent}"
            )
        with suppress(FileExistsError), open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            give(file.fileno(), path.parent)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and nobody else writes meanwhile."""
        with self._lock, transaction(self._db):
            yield

    def invite(self, name: str, holds_s: float) -> bytes:
        """A new secret for a name; it takes the place of an older one, and only its hash is kept."""
        secret = secrets.token_bytes(32)
        row = (name, hashlib.sha256(secret).digest(), time.time() + holds_s)
        with self._lock:
            self._db.execute("INSERT OR REPLACE INTO invitations (name, hash, expires_at) VALUES (?, ?, ?)", row)
        return secret

    def why_not(self, name: str, secret: bytes, public_key: bytes) -> str:
        """Why a secret does not admit this name and key; empty if it does. The comparison takes as long for any secret and any name."""
        row = self._one("SELECT hash, expires_at, used_by FROM invitations WHERE name = ?", name)
        expected, expires_at, used_by = row or (NOTHING, 0.0, None)
        fits = hmac.compare_digest(hashlib.sha256(secret).digest(), expected)
        if not row:
            return "there is no invitation for this name"
        if not fits:
            return "the token is wrong, or replaced by a later one"
        if time.time() > expires_at:
            return "the token has expired"
        if used_by is not None and used_by != public_key:
            return "the token was used already"
        return ""

    def use(self, name: str, public_key: bytes) -> None:
        """From now on the invitation admits this key only."""
        self._db.execute("UPDATE invitations SET used_by = ? WHERE name = ?", (public_key, name))

    def add(self, certificate: x509.Certificate, role: Role, pem: bytes, renews: int | None = None, name: str = "") -> None:
        """Note a certificate that is given out, under the name in it, or another one."""
        public = certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        times = (certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())
        row = (str(certificate.serial_number), name or name_of(certificate.subject), role, public_bytes(public), pem, *times)
        with self._lock:
            columns = "serial, name, role, public_key, pem, begins_at, ends_at, renews"
            values = (*row, None if renews is None else str(renews))
            self._db.execute(f"INSERT INTO certificates ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def certificate(self, serial: int) -> Known | None:
        """One of them."""
        return next(self._certificates("serial = ?", str(serial)), None)

    def of_key(self, public_key: bytes) -> Known | None:
        """The newest certificate that was given out for a key."""
        return next(self._certificates("public_key = ?", public_key, newest=True), None)

    def renewed_by_another(self, serial: int, public_key: bytes) -> bool:
        """Whether a certificate was renewed with another key than this."""
        return any(one.public_key != public_key for one in self._certificates("renews = ?", str(serial)))

    def knows(self, name: str) -> bool:
        """Whether somebody of this name ever got a certificate: a device, the hub, a batch of the factory."""
        return next(self._certificates("name = ?", name), None) is not None

    def newest(self, name: str) -> Known | None:
        """The last certificate of a name."""
        return next(self._certificates("name = ?", name, newest=True), None)

    def prune(self) -> int:
        """Delete certificates and invitations that ended long ago; how many certificates. The newest of each name stays: its device may
        still come and ask for another."""
        before = time.time() - KEPT_S
        newer = "SELECT 1 FROM certificates AS newer WHERE newer.name = certificates.name AND newer.rowid > certificates.rowid"
        with self.transaction():
            self._db.execute("DELETE FROM invitations WHERE expires_at < ?", (before,))
            return self._db.execute(f"DELETE FROM certificates WHERE ends_at < ? AND EXISTS ({newer})", (before,)).rowcount

    def devices(self) -> list[Known]:
        """The newest certificate of each device, by name."""
        newest = self._certificates("rowid IN (SELECT max(rowid) FROM certificates WHERE role = 'device' GROUP BY name)")
        return sorted(newest, key=lambda one: one.name)

    def revoke(self, name: str) -> int:
        """Mark all certificates of a name as revoked, and `withdraw`; how many certificates that still held."""
        now = time.time()
        with self.transaction():
            self._withdraw(name)
            done = self._db.execute("UPDATE certificates SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL", (now, name))
            return done.rowcount

    def withdraw(self, name: str) -> bool:
        """Delete the invitation of a name, and refuse what it asked for and did not get yet; whether there was anything."""
        with self.transaction():
            return self._withdraw(name)

    def _withdraw(self, name: str) -> bool:
        open_requests = "name = ? AND decision IS NOT 'refused' AND decision IS NOT 'issued'"
        invited = self._db.execute("DELETE FROM invitations WHERE name = ?", (name,))
        asked = self._db.execute(f"UPDATE requests SET decision = 'refused' WHERE {open_requests}", (name,))
        return bool(invited.rowcount + asked.rowcount)

    def revoked(self) -> list[Revoked]:
        """For the list of revoked certificates: those that would still be in force."""
        rows = self._all("SELECT serial, revoked_at FROM certificates WHERE revoked_at IS NOT NULL AND ends_at > ?", time.time())
        return [Revoked(int(serial), revoked_at) for serial, revoked_at in rows]

    def ask(self, kind: str, name: str, public_key: bytes, reason: str, address: str) -> tuple[Request, bool]:
        """Put a request before the operator, once: the request, with the decision where there is one, and whether it is new.

        Beyond a thousand the oldest are dropped.
        """
        found = self._requests("name = ? AND public_key = ? AND kind = ? AND decision IS NOT 'issued'", name, public_key, kind)
        if found:
            return found[-1], False
        request = Request(secrets.token_hex(4), kind, name, public_key, reason, time.time(), address, "")
        row = (request.id, kind, name, public_key, reason, request.asked_at, address)
        with self._lock:
            self._db.execute(
                "INSERT INTO requests (id, kind, name, public_key, reason, asked_at, address) VALUES (?, ?, ?, ?, ?, ?, ?)", row
            )
            self._trim("requests", KEPT_REQUESTS)
        return request, True

    def requests(self) -> list[Request]:
        """What waits for a decision, and what is approved and was not fetched yet."""
        return self._requests("decision IS NULL OR decision = 'approved'")

    def decide(self, request: str, decision: Literal["approved", "refused"]) -> Request | None:
        """Say yes or no, also to what was decided otherwise before; None where there is no such request, or it has led to a certificate.

        Returns the request as it was.
        """
        with self.transaction():
            found = self._requests("id = ? AND decision IS NOT 'issued'", request)
            if found:
                self._db.execute("UPDATE requests SET decision = ? WHERE id = ?", (decision, request))
        return found[0] if found else None

    def issued(self, request: str) -> None:
        """It has led to a certificate, and leads to no other one."""
        self._db.execute("UPDATE requests SET decision = 'issued' WHERE id = ?", (request,))

    def note(self, action: str, name: str, outcome: str, reason: str = "", address: str = "") -> None:
        """Keep a decision; the oldest are dropped beyond ten thousand."""
        with self._lock:
            self._db.execute(
                "INSERT INTO decisions (at, action, name, outcome, reason, address) VALUES (?, ?, ?, ?, ?, ?)",
                (time.time(), action, name, outcome, reason, address),
            )
            self._trim("decisions", KEPT_DECISIONS)

    def decisions(self, limit: int) -> list[tuple[float, str, str, str, str, str]]:
        """The newest, oldest first: when, action, name, outcome, reason, address."""
        query = "SELECT at, action, name, outcome, reason, address FROM decisions ORDER BY number DESC LIMIT ?"
        return self._all(query, limit)[::-1]

    def _trim(self, table: str, keep: int) -> None:
        """Only here rows are deleted, and so their numbers have no gaps."""
        self._db.execute(f"DELETE FROM {table} WHERE rowid <= (SELECT max(rowid) FROM {table}) - {keep}")

    def _certificates(self, where: str, *values: Any, newest: bool = False) -> Iterator[Known]:
        columns = "serial, name, role, public_key, pem, begins_at, ends_at, revoked_at, renews"
        order = "DESC" if newest else "ASC"
        for row in self._all(f"SELECT {columns} FROM certificates WHERE {where} ORDER BY rowid {order}", *values):
            serial, name, role, public_key, pem, begins_at, ends_at, revoked_at, renews = row
            replaced = None if renews is None else int(renews)
            yield Known(int(serial), name, role, public_key, pem, begins_at, ends_at, revoked_at, replaced)

    def _requests(self, where: str, *values: Any) -> list[Request]:
        columns = "id, kind, name, public_key, reason, asked_at, address, coalesce(decision, '')"
        return [Request(*row) for row in self._all(f"SELECT {columns} FROM requests WHERE {where} ORDER BY asked_at", *values)]

    def _one(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        return next(iter(self._all(query, *values)), None)

    def _all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()
