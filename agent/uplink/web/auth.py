"""Who may use the page: one user, an argon2id hash, sessions in memory, and a back-off for those who guess."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
import threading
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from agent.settings import LoginSettings

SESSION_S = 12 * 3600.0
IDLE_S = 2 * 3600.0
MAX_SESSIONS = 64
FREE_FAILURES = 5
MAX_BACKOFF_S = 900.0
MAX_ADDRESSES = 4096
FORGOTTEN_AFTER_S = 3600.0
RECORD_EVERY_S = 600.0


def hash_password(password: str) -> str:
    """An argon2id hash for `web.login.password_hash`: 19 MiB, two passes (OWASP's minimum), so that checking one fits a small device."""
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(password)


class RateLimit:
    """After five failures an address waits: 1 s, 2 s, 4 s … up to 15 minutes. IPv6 addresses count by /64.

    Only time makes it forget: behind one address may be a guesser and somebody who knows the password.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0 is now."""
        _, until = self._failures.get(_network(address), (0, 0.0))
        return max(0.0, until - self._clock())

    def failed(self, address: str) -> None:
        """Count a wrong password."""
        key = _network(address)
        count, until = self._failures.pop(key, (0, 0.0))
        count = count + 1 if self._clock() < until + FORGOTTEN_AFTER_S else 1
        pause = min(MAX_BACKOFF_S, 2.0 ** (count - FREE_FAILURES)) if count >= FREE_FAILURES else 0.0
        self._failures[key] = (count, self._clock() + pause)
        while len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)


@dataclass
class _Session:
    started: float
    used: float


class Login:
    """Checks passwords and keeps sessions. Safe to call from several threads; one password is checked at a time.

    `record` gets `done` for each session, and `refused` with the number of wrong passwords: the first at once, more of them together
    every ten minutes, so that a guesser cannot fill the audit lane.
    """

    def __init__(self, settings: LoginSettings, record: Callable[[str, int], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._record = record
        self._clock = clock
        self._hasher = PasswordHasher()
        self._one = threading.Lock()
        self._lock = threading.Lock()
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._refused = 0
        self._recorded_at = -math.inf
        self.limit = RateLimit(clock)

    def check(self, username: str, password: str, address: str) -> bool:
        """Whether user and password are right. Takes as long for a wrong user as for a wrong password."""
        with self._one:
            if self.limit.wait_s(address) > 0:
                return False
            right = hmac.compare_digest(username.encode(), self._settings.username.encode())
            try:
                right &= self._hasher.verify(self._settings.password_hash, password)
            except (VerificationError, InvalidHashError):
                right = False
            if not right:
                self.limit.failed(address)
                self._refused += 1
                if self._clock() - self._recorded_at >= RECORD_EVERY_S:
                    self._record_refused()
            return right

    def check_basic(self, header: str, address: str) -> bool:
        """The same for an `Authorization: Basic` header (RFC 7617), which scripts and Prometheus send."""
        scheme, _, encoded = header.partition(" ")
        try:
            username, separator, password = b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            return False
        return scheme.lower() == "basic" and bool(separator) and self.check(username, password, address)

    def open(self) -> str:
        """Begin a session and return its token, of which only a hash is kept."""
        self._record("done", 1)
        token = secrets.token_urlsafe(32)
        now = self._clock()
        with self._lock:
            self._sessions[_digest(token)] = _Session(now, now)
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return token

    def valid(self, token: str, use: bool = True) -> bool:
        """Whether the token's session is open: not older than 12 hours, used within the last two. Being asked is a `use`."""
        now = self._clock()
        with self._lock:
            session = self._sessions.get(_digest(token))
            if session is None:
                return False
            if now - session.started > SESSION_S or now - session.used > IDLE_S:
                del self._sessions[_digest(token)]
                return False
            if use:
                session.used = now
            return True

    def close(self, token: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_digest(token), None)

    def end(self) -> None:
        """Record the wrong passwords that wait for it."""
        with self._one:
            if self._refused:
                self._record_refused()

    def _record_refused(self) -> None:
        self._record("refused", self._refused)
        self._refused, self._recorded_at = 0, self._clock()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address
