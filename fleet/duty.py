"""What one hub of several does, and another takes over when that one is gone."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine, delete, insert, or_, text, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from fleet.store.database import writing
from fleet.store.tables import duties

log = logging.getLogger(__name__)

LEASE_S = 30.0
ENDS_WITHIN_S = 10.0
PAUSES = 9
"""For each second of the processor that the work took it pauses for so many: of a large fleet it takes a tenth of one at most."""


class Duty:
    """A thread that calls `work(now)` each `period_s`, or sooner after `wake`, while this instance holds the duty.

    A database that does not answer is told in the log, once, and tried again; any other error ends the thread, and `alive` says so.
    """

    def __init__(self, engine: Engine, name: str, period_s: float, work: Callable[[float], None]) -> None:
        self._engine = engine
        self._name = name
        self._period_s = period_s
        self._work = work
        self._holder = secrets.token_hex(8)
        self._held_until = float("-inf")
        """Monotonic."""
        self._wake = threading.Event()
        self._stopping = False
        self._trouble = ""
        self._working = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._keeper = threading.Thread(target=self._keep, name=f"{name}-lease", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        self._keeper.start()

    def wake(self) -> None:
        """There is something to do now."""
        self._wake.set()

    def stop(self) -> None:
        """End after the work in hand, and leave the duty to others."""
        self._stopping = True
        self._wake.set()
        self._thread.join(ENDS_WITHIN_S)
        self._ended.set()
        self._keeper.join(ENDS_WITHIN_S)
        try:
            with writing(self._engine) as connection:
                connection.execute(delete(duties).where(duties.c.name == self._name, duties.c.holder == self._holder))
        except SQLAlchemyError as error:
            log.warning("%s: the duty is not given back, and runs out by itself: %s", self._name, error)

    def _run(self) -> None:
        while not self._stopping:
            began = time.thread_time()
            try:
                if self._mine():
                    self._working = True
                    self._work(time.time())
                self._trouble = ""
            except SQLAlchemyError as error:
                if not self._trouble:
                    log.error("%s: the database does not answer; this is tried again: %s", self._name, error)
                self._trouble = str(error)
            finally:
                self._working = False
            self._wake.wait(max(self._period_s, (time.thread_time() - began) * PAUSES))
            self._wake.clear()

    def _keep(self) -> None:
        """The lease goes on while the work takes longer than it."""
        while not self._ended.wait(LEASE_S / 3):
            if self._working:
                try:
                    self._mine()
                except SQLAlchemyError as error:
                    log.warning("%s: the duty cannot be kept, and another hub may take it: %s", self._name, error)

    def _mine(self) -> bool:
        asked = time.monotonic()
        if asked < self._held_until - LEASE_S / 2:
            return True
        try:
            with writing(self._engine) as connection:
                now = _clock(connection)
                mine = {"holder": self._holder, "until": now + LEASE_S}
                ended = or_(duties.c.until < now, duties.c.until > now + 2 * LEASE_S)  # of a clock that was ahead
                free = or_(duties.c.holder == self._holder, ended)
                if connection.execute(update(duties).where(duties.c.name == self._name, free).values(mine)).rowcount == 0:
                    connection.execute(insert(duties).values(name=self._name, **mine))
        except IntegrityError:  # another instance holds it
            self._held_until = float("-inf")
            return False
        self._held_until = asked + LEASE_S
        return True


def _clock(connection: Connection) -> float:
    """What all hubs on one database go by, whatever their own machines say: Unix seconds."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return time.time()
