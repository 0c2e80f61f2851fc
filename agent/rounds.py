"""Work that is done again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Rounds:
    """A thread that calls `work` until it is stopped. Between two rounds it waits for `pause_s`, and for `share` of what a round took."""

    def __init__(self, name: str, work: Callable[[], None], pause_s: float, share: float = 0.0) -> None:
        self._work = work
        self._pause_s = pause_s
        self._share = share
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    @property
    def stopping(self) -> bool:
        """A round that takes long ends early when this turns true."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Begin at once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the round in hand; nothing where there was no start."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self.stopping:
            started = time.monotonic()
            self._work()
            self._stopping.wait(max(self._pause_s, self._share * (time.monotonic() - started)))
