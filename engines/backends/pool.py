"""What an engine infers with, one for each call at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Generic, TypeVar

from engines.errors import EngineError

Member = TypeVar("Member")


class Pool(Generic[Member]):
    """Interchangeable requests or contexts of one engine. Whoever finds none free waits."""

    def __init__(self, name: str, members: Sequence[Member]) -> None:
        self._name = name
        self._count = len(members)
        self._free: queue.SimpleQueue[Member | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        for member in members:
            self._free.put(member)

    def take(self) -> Member:
        """A free one, to be given back. Raises EngineError where the engine was closed."""
        member = self._free.get()
        if member is None:
            self._free.put(None)
            raise EngineError(f"{self._name}: the engine is closed")
        return member

    def give(self, member: Member) -> None:
        """Give back what was taken."""
        self._free.put(member)

    def close(self) -> list[Member]:
        """Refuse further callers, wait for those under way, and give all members up; the second time there are none."""
        with self._closing:
            if self._closed:
                return []
            self._closed = True
            members = [member for _ in range(self._count) if (member := self._free.get()) is not None]
            self._free.put(None)
            return members
