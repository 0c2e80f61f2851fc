"""Work that is done again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Rounds:
    """A thread that calls `work` until it is stopped. Between two rounds it waits for `pause_s`, or longer where `work` says so."""

    def __init__(self, name: str, work: Callable[[], float | None], pause_s: float) -> None:
        self._work = work
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._soon = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    @property
    def stopping(self) -> bool:
        """A round that takes long ends early when this turns true."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Begin at once."""
        self._thread.start()

    def hasten(self) -> None:
        """Begin the next round now, or after the one in hand."""
        self._soon.set()

    def stop(self) -> None:
        """End after the round in hand; nothing where there was no start."""
        self._stopping.set()
        self._soon.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self.stopping:
            self._soon.clear()
            pause_s = max(self._pause_s, self._work() or 0.0)
            if not self.stopping:
                self._soon.wait(pause_s)
