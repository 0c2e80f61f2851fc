"""How often somebody may ask, and be wrong."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from agent.serving import network_of

ADDRESSES = 10_000


@dataclass
class _Bucket:
    tokens: float
    at: float
    refused: int = 0


class RateLimit:
    """Each caller (an address; IPv6: its /64; or a name) has `burst` requests, and one more every `every_s`.

    Each is taken before it is looked at, so that many at once are no more than one after the other.
    """

    def __init__(self, burst: int = 10, every_s: float = 6.0) -> None:
        self._burst = burst
        self._every_s = every_s
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, address: str) -> tuple[float, int]:
        """Seconds until the caller is heard again, 0 for now; and how many requests it had refused for that since it last was heard.

        Of more than ten thousand callers those that were heard longest ago are forgotten.
        """
        network = network_of(address)
        with self._lock:
            bucket = self._refilled(network)
            if bucket.tokens < 1.0:
                bucket.refused += 1
                return (1.0 - bucket.tokens) * self._every_s, bucket.refused
            bucket.tokens -= 1.0
            bucket.refused = 0
            self._buckets.move_to_end(network)
            if len(self._buckets) > ADDRESSES:
                self._buckets.popitem(last=False)
            return 0.0, 0

    def give_back(self, address: str, part: float) -> None:
        """Of a request that was taken."""
        with self._lock:
            bucket = self._refilled(network_of(address))
            bucket.tokens = min(self._burst, bucket.tokens + part)

    def _refilled(self, network: str) -> _Bucket:
        now = time.monotonic()
        bucket = self._buckets.setdefault(network, _Bucket(self._burst, now))
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) / self._every_s)
        bucket.at = now
        return bucket
