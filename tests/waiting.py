"""Wait on a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 30.0


def wait_until(condition: Callable[[], T], timeout: float, what: str) -> T:
    """Poll until `condition` gives something true, and return it; fail with `what` at the deadline.

    `timeout` is for a calm machine. A loaded one stands still for seconds now and then, so no wait ends before 30 s.
    """
    timeout = max(timeout, PATIENCE_S)
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}")
        time.sleep(0.02)
