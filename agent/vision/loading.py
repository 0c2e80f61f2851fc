"""Signs of life of models that are loaded: a part of a file that was fetched, or the next step of a build."""

from __future__ import annotations

import time

WITHIN_S = 3600.0
"""So long one step of a build, or a part of a file that is fetched, may take at most."""


class Pulse:
    """Of all loading in this process: streams share models, and wait for each other's. Called with whatever is told of it."""

    def __init__(self) -> None:
        self.at = time.monotonic()

    def __call__(self, *_: object) -> None:
        self.at = time.monotonic()

    def overdue_s(self, since: float) -> float:
        """By how many seconds too long a load that began then (monotonic) has given no sign."""
        return max(0.0, time.monotonic() - max(since, self.at) - WITHIN_S)


PULSE = Pulse()
