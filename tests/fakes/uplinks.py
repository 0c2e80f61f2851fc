"""The uplink within the test's process, with short pauses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.uplink.app import Pace, Uplink
from agent.uplink.session import Backoff
from tests.fakes.fleet import load

FAST = Pace(Backoff(0.1, 0.3), Backoff(0.1, 0.3), hub_answers_within_s=1.0)


@contextmanager
def uplink(path: Path) -> Iterator[Uplink]:
    """Started with the settings in a file, and stopped at the end."""
    one = Uplink(load(path), FAST)
    one.start()
    try:
        yield one
    finally:
        one.stop()
