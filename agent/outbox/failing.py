"""For how long nothing can be stored, although there is room."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from agent.outbox.rows import OutboxError, OutboxFullError, OutboxReadOnlyError


class Failing:
    """Attempts to write, by whatever they write to. That a disk is full or read-only does not count: no new process would help."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}

    @contextmanager
    def attempt(self, to: Hashable) -> Iterator[None]:
        """One of them, as a context."""
        try:
            yield
        except OutboxError as error:
            self.failed(to, error)
            raise
        self.worked(to)

    def failed(self, to: Hashable, error: OutboxError) -> None:
        """One of them did not work."""
        if isinstance(error, (OutboxFullError, OutboxReadOnlyError)):
            self.worked(to)
        else:
            self._since.setdefault(to, time.monotonic())

    def worked(self, to: Hashable) -> None:
        """One of them did."""
        self._since.pop(to, None)

    @property
    def for_s(self) -> float:
        """Seconds since the first of the attempts that have all failed; 0 where the last one worked."""
        now = time.monotonic()
        return now - min(self._since.copy().values(), default=now)
