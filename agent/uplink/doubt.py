"""Spools in which the hub's word may mean other rows than those that are here: the outbox was restored from a copy.

The mark lies in the outbox, so that a restart of the process does not make the hub's old word count.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent import wire
from agent.outbox import Outbox, Row
from agent.outbox.ledger import TRIES
from agent.uplink.window import Parcel


class Doubt:
    """Compares what the hub says with what was given here."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._highest: dict[str, int] = {}
        self._spools: frozenset[str] | None = None

    def given(self, rows: Iterable[Row]) -> None:
        """These rows are here."""
        self._highest.update({row.spool: row.seq for row in rows})

    def compare(self, ack: wire.Ack) -> None:
        """The hub knows numbers that this outbox has not given yet: it was restored from a copy, and goes on in a new spool.

        Raises OutboxError."""
        if self._spools is None:
            self._spools = self._outbox.doubtful()
        highest = max(ack.upto, *(last for _, last in ack.ranges), 0)
        if highest <= self._highest.get(ack.spool, 0):
            return
        for lane, books in self._outbox.stats().items():
            if books["spool"] == ack.spool and books["seq"] < highest:
                self._outbox.start_spool(lane, f"the hub has number {highest}, the last one given here is {books['seq']}")
                self._spools = self._outbox.doubtful()

    def may_be_stored(self, parcel: Parcel) -> bool:
        """Whether the hub can mean this row. In a doubtful spool it may mean another one, until it had its chances to refuse this."""
        if self._spools and parcel.row.spool in self._spools:
            return parcel.sends > TRIES and not parcel.refusals
        return parcel.sends > 0
