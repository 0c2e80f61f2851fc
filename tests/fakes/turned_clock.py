"""A wall clock that the test turns, under real processes: libfaketime, and the monotonic clock as it is.

`python -m tests.fakes.turned_clock MODULE ARGUMENTS` runs a module so. The kernel's word that the clock is synchronised is not the real
one there: test machines differ in that.
"""

from __future__ import annotations

import runpy
import sys
import threading
import time
from pathlib import Path

import agent.clock


class TurnedClock:
    """Right at first. `environment` is for the processes that live by it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock.txt"
        self.turn(0)
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
        self.environment = {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1",
        }  # fmt: skip

    def turn(self, seconds: int) -> None:
        """Step it to so far from the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)


def main() -> None:
    agent.clock.kernel_synchronised = lambda: True
    time.sleep = lambda seconds: threading.Event().wait(seconds)  # type: ignore[assignment] # clock_nanosleep(2) fails under libfaketime
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
