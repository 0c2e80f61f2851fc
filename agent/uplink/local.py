"""Delivery `none`: what is appended becomes local history at once, because nobody else is to have it."""

from __future__ import annotations

import logging
import threading
import time

from agent.outbox import LANES, Outbox, OutboxError

log = logging.getLogger(__name__)

BATCH = 1000


class LocalOnly:
    """A thread that settles every row."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._stop = threading.Event()
        self._last_read = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="local", daemon=True)

    def start(self) -> None:
        """Start settling."""
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout)

    def alive(self, within_s: float) -> bool:
        """Whether the thread lives and has read the outbox in the last `within_s` seconds."""
        return self._thread.is_alive() and time.monotonic() - self._last_read < within_s

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                for lane in LANES:
                    self._settle(lane)
                self._outbox.wait(0.5)
            except OutboxError as error:
                log.error("the outbox cannot be settled: %s", error)
                self._stop.wait(1.0)

    def _settle(self, lane: str) -> None:
        while not self._stop.is_set():
            rows = self._outbox.pending(lane, BATCH)
            self._last_read = time.monotonic()
            if not rows:
                return
            for spool in {row.spool for row in rows}:
                self._outbox.settle(lane, spool, upto=max(row.seq for row in rows if row.spool == spool))
