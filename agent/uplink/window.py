"""The rows of one lane that are on their way: which to send next, which to send again and when."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.outbox import Row
from agent.settings import MEBIBYTE

Key = tuple[str, int]
"""Spool and sequence number."""


@dataclass(eq=False)
class Parcel:
    """A row on its way. `due` is monotonic time in seconds; `on_wire` from PUBLISH to PUBACK or the end of the connection; `taken` once
    there was a PUBACK."""

    row: Row
    due: float
    sends: int = 0
    refusals: int = 0
    on_wire: bool = False
    taken: bool = False
    gone: bool = False

    @property
    def key(self) -> Key:
        """What identifies the row in its lane."""
        return self.row.spool, self.row.seq


class Window:
    """About `limit` unsettled rows and `max_bytes` of a lane at most, each row with the moment when it is to be sent (again)."""

    def __init__(self, limit: int, max_bytes: int = 8 * MEBIBYTE) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._bytes = 0
        self._parcels: dict[Key, Parcel] = {}
        self._heap: list[tuple[float, int, Parcel]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._parcels)

    def __contains__(self, key: Key) -> bool:
        return key in self._parcels

    def __iter__(self) -> Iterator[Parcel]:
        return iter(list(self._parcels.values()))

    @property
    def room(self) -> int:
        """How many more rows it takes."""
        return self._limit - len(self._parcels) if self._bytes < self._max_bytes else 0

    def get(self, key: Key) -> Parcel | None:
        """The parcel of a row, if it is here."""
        return self._parcels.get(key)

    def add(self, rows: Iterable[Row], now: float) -> None:
        """Take rows, to be sent at once."""
        for row in rows:
            parcel = Parcel(row, now)
            self._parcels[parcel.key] = parcel
            self._bytes += len(row.payload)
            self.schedule(parcel, now)

    def schedule(self, parcel: Parcel, due: float) -> None:
        """Send it at `due`, whatever was planned before."""
        parcel.due = due
        parcel.on_wire = False
        heapq.heappush(self._heap, (due, next(self._order), parcel))

    def hasten(self, parcel: Parcel, due: float) -> None:
        """Send it at `due` if that is earlier than planned."""
        if due < parcel.due:
            self.schedule(parcel, due)

    def take(self, now: float) -> Parcel | None:
        """The next parcel that is due; it is on the wire from now on."""
        self._drop_stale()
        if not self._heap or self._heap[0][0] > now:
            return None
        parcel = heapq.heappop(self._heap)[2]
        parcel.on_wire = True
        parcel.sends += 1
        return parcel

    def next_due(self) -> float | None:
        """When the next parcel is due."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def renew(self, rows: Iterable[Row]) -> None:
        """Send these rows in place of what they were. A parcel whose row is not among them is no longer pending, and goes."""
        fresh = {(row.spool, row.seq): row for row in rows}
        for parcel in self:
            if parcel.key in fresh:
                self._bytes += len(fresh[parcel.key].payload) - len(parcel.row.payload)
                parcel.row = fresh[parcel.key]
            else:
                self.remove(parcel)

    def remove(self, parcel: Parcel) -> None:
        """It is settled."""
        if not parcel.gone:
            parcel.gone = True
            self._bytes -= len(parcel.row.payload)
            del self._parcels[parcel.key]

    def covered(self, spool: str, upto: int | None, ranges: Iterable[tuple[int, int]]) -> list[Parcel]:
        """The parcels of `spool` up to `upto` or in one of `ranges` (both ends included)."""
        spans = [(1, upto)] if upto is not None else []
        spans += list(ranges)
        return [parcel for parcel in self if parcel.row.spool == spool and any(low <= parcel.row.seq <= high for low, high in spans)]

    def _drop_stale(self) -> None:
        heap = self._heap
        while heap and (heap[0][2].gone or heap[0][2].on_wire or heap[0][0] != heap[0][2].due):
            heapq.heappop(heap)
