"""Signs of life of models that are loaded: a part of a file that was fetched, or the next step of a build."""

from __future__ import annotations

import time


class Pulse:
    """Of all loading in this process: streams share models, and wait for each other's. Called with whatever is told of it."""

    def __init__(self) -> None:
        self.at = time.monotonic()

    def __call__(self, *_: object) -> None:
        self.at = time.monotonic()


PULSE = Pulse()
