"""Finds the row over which a broker ends the connection, because a packet is larger than it takes.

Under MQTT 5 a broker says what it takes; under 3.1.1 all that can be seen is that the connection ends, again and again.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.uplink.window import Parcel

REASON = "the broker ends the connection over it; it may be too large"
SUSPECT_BYTES = 16 * 1024
"""Brokers take at least so much."""


class Oversize:
    """What one connection shows. `works`: it has carried something there and back, if only the birth."""

    def __init__(self) -> None:
        self.works = False
        self._largest = 0

    def connected(self) -> None:
        """A new connection, of which nothing is known."""
        self.works = False
        self._largest = 0

    def taken(self, parcel: Parcel) -> None:
        """The broker has acknowledged this row."""
        parcel.taken = True
        self._largest = max(self._largest, len(parcel.row.payload))

    def suspect(self, on_wire: Iterable[Parcel]) -> Parcel | None:
        """At the end of a connection: the largest of what was on the wire, if it is large, larger than all that was taken, and was never
        taken itself."""
        largest = max(on_wire, key=lambda parcel: len(parcel.row.payload), default=None)
        if largest is None or largest.gone or largest.taken or len(largest.row.payload) <= max(self._largest, SUSPECT_BYTES):
            return None
        return largest
