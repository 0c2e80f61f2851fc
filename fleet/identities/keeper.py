"""What is to be seen to though nobody asks: identities whose time is over, and erasures that this database has forgotten."""

from __future__ import annotations

import logging
import time

from sqlalchemy import Engine, select

from fleet.duty import Duty
from fleet.identities import ledger
from fleet.store.database import writing
from fleet.store.erased_list import ErasedList
from fleet.store.tables import erased, identities

log = logging.getLogger(__name__)

PERIOD_S = 5.0


class Keeper(Duty):
    """One thread. `kept` is the list of erasures outside the database."""

    def __init__(self, engine: Engine, kept: ErasedList, period_s: float = PERIOD_S) -> None:
        super().__init__(engine, "identities", period_s, self._look)
        self._kept = kept
        self._listed_until = time.time() - period_s
        self._unlisted = False

    def _look(self, now: float) -> None:
        with writing(self._engine) as connection:
            ledger.expire(connection, now)
            ledger.erase_again(connection, now)
            ledger.forget_withdrawn(connection)
            fresh = select(erased).join(identities, identities.c.id == erased.c.identity).where(identities.c.erase_at >= self._listed_until)
            entries = [(row.device, row.identity) for row in connection.execute(fresh)]
        try:
            self._kept.add(entries)
        except OSError as error:
            if not self._unlisted:
                log.error("erasures cannot be written down outside the database, which is tried again: %s", error)
            self._unlisted = True
            return
        self._unlisted = False
        self._listed_until = now
