"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Backoff:
    """Exponential back-off with full jitter: between 0 and min(cap, base · 2^attempt) seconds
    (Brooker, "Exponential Backoff And Jitter", 2015)."""

    base_s: float
    cap_s: float
    uniform: Callable[[float, float], float] = field(default=random.uniform)

    def delay(self, attempt: int) -> float:
        """Seconds to wait after the failed try number `attempt`, counted from 0."""
        return self.uniform(0.0, min(self.cap_s, self.base_s * 2.0 ** min(attempt, 32)))
