"""Passwords as argon2id hashes, tokens of which only a digest is kept, and a back-off for those who guess."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from argon2 import PasswordHasher

from agent.serving import Problem, network_of

SESSION_S = 12 * 3600.0
IDLE_S = 2 * 3600.0
FREE_FAILURES = 5
MAX_BACKOFF_S = 900.0
MAX_ADDRESSES = 4096
FORGOTTEN_AFTER_S = 3600.0


def hash_password(password: str) -> str:
    """An argon2id hash: 19 MiB, two passes (OWASP's minimum), so that checking one fits a small device."""
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(password)


def new_token() -> str:
    """256 random bits for a URL or a header."""
    return secrets.token_urlsafe(32)


def digest(token: str) -> bytes:
    """What is kept of a token. It is random, so that one round of SHA-256 does."""
    return hashlib.sha256(token.encode()).digest()


def too_many(wait_s: float) -> Problem:
    """The answer to an address that has guessed too often."""
    return Problem(429, "Too many wrong passwords", f"try again in {wait_s:.0f} s", {"Retry-After": str(int(wait_s) + 1)})


class RateLimit:
    """After five failures an address waits: 1 s, 2 s, 4 s … up to 15 minutes. IPv6 addresses count by /64.

    Only time makes it forget: behind one address may be a guesser and somebody who knows the password.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0 is now."""
        _, until = self._failures.get(network_of(address), (0, 0.0))
        return max(0.0, until - self._clock())

    def failed(self, address: str) -> None:
        """Count a wrong password."""
        key = network_of(address)
        count, until = self._failures.pop(key, (0, 0.0))
        count = count + 1 if self._clock() < until + FORGOTTEN_AFTER_S else 1
        pause = min(MAX_BACKOFF_S, 2.0 ** (count - FREE_FAILURES)) if count >= FREE_FAILURES else 0.0
        self._failures[key] = (count, self._clock() + pause)
        while len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)
