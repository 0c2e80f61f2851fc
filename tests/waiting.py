"""Wait on a condition, with a deadline."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within, no other process of the tests is within: what they share in `folder` is made by one of them. Not to be nested."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
