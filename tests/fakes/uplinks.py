"""The uplink with short pauses: within the test's process, or with `python -m tests.fakes.uplinks SETTINGS` in one of its own."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.backoff import Backoff
from agent.uplink.app import PACE, Pace, Uplink
from agent.uplink.trial import Patience

SHORT = Patience(ready_s=60.0, failing_s=1.5, steady_s=1.0, look_s=0.05, idle_s=0.2)
FAST = Pace(Backoff(0.1, 0.3), Backoff(0.1, 0.3), hub_answers_within_s=1.0, trial=SHORT)
HASTE = 300
"""How many times as fast as in the field the process of its own lives."""


@contextmanager
def uplink(path: Path) -> Iterator[Uplink]:
    """Started with the settings in a file, and stopped at the end."""
    one = Uplink(path, FAST)
    one.start()
    try:
        yield one
    finally:
        one.stop()


def main() -> None:
    """Until SIGTERM: every pause before another try is the real one divided by HASTE."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    connect, again = (Backoff(backoff.base_s / HASTE, backoff.cap_s / HASTE) for backoff in (PACE.connect, PACE.again))
    one = Uplink(Path(sys.argv[1]), Pace(connect, again, PACE.hub_answers_within_s, trial=SHORT))
    one.start()
    while not stopping.wait(1.0):
        one.look()
    one.stop()


if __name__ == "__main__":
    main()
