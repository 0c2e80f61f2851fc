"""Who may use the page: one user, sessions in memory."""

from __future__ import annotations

import hmac
import math
import threading
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from agent.http.passwords import IDLE_S, SESSION_S, RateLimit, digest, new_token
from agent.settings import LoginSettings

MAX_SESSIONS = 64
RECORD_EVERY_S = 600.0


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
            except VerificationError:
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
        token = new_token()
        now = self._clock()
        with self._lock:
            self._sessions[digest(token)] = _Session(now, now)
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        return token

    def valid(self, token: str, use: bool = True) -> bool:
        """Whether the token's session is open: not older than 12 hours, used within the last two. Being asked is a `use`."""
        now = self._clock()
        with self._lock:
            session = self._sessions.get(digest(token))
            if session is None:
                return False
            if now - session.started > SESSION_S or now - session.used > IDLE_S:
                del self._sessions[digest(token)]
                return False
            if use:
                session.used = now
            return True

    def close(self, token: str) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(digest(token), None)

    def end(self) -> None:
        """Record the wrong passwords that wait for it."""
        with self._one:
            if self._refused:
                self._record_refused()

    def _record_refused(self) -> None:
        self._record("refused", self._refused)
        self._refused, self._recorded_at = 0, self._clock()
