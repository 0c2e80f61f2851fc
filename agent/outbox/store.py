"""One database with some lanes: transactions, shared commits, and what happens when they fail."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from agent.datatypes import Event
from agent.outbox import losses, recovery, reports, schema
from agent.outbox.guard import Gate, Reserve, make_private, sync_folder
from agent.outbox.ledger import Ledger
from agent.outbox.mirror import Mark, Mirror
from agent.outbox.rows import Append, LaneState, OutboxError, OutboxFullError, Rules
from agent.transaction import transaction

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAINTAIN_S = 30.0
REOPEN_S = 3.0
"""Between two attempts to open a database that could not be opened."""
WRITE_BACKS = 10
"""Attempts to empty the log after an erasure."""


class Store:
    """A database file `<name>.db`, its mirror `<name>.seq`, its gate `<name>.lock` and the reserve that the stores share.

    `first_loss` is the number before the first of its loss records: each store counts these in a range of its own, so that numbers
    order the loss lane of all of them. `sync`: a commit is on the disk when it returns. Every boot starts new spools: a power cut, a
    restored backup or a copied disk may have taken back numbers that the hub has seen.
    """

    def __init__(self, folder: Path, name: str, lanes: Sequence[str], rules: Rules, *, sync: bool, first_loss: int) -> None:
        self.path = folder / f"{name}.db"
        self.lanes = tuple(lanes)
        self._rules = rules
        self._sync = sync
        self._first_loss = first_loss
        self._gate = Gate(folder / f"{name}.lock")
        self._mirror = Mirror(folder / f"{name}.seq", self.lanes)
        self._reserve = Reserve(folder / "reserve")
        self._waiting: list[Append] = []
        self._waiting_lock = threading.Lock()
        self._read_lock = threading.RLock()
        self._uncounted: dict[str, int] = {}
        self._marks: dict[str, Mark] = {}
        self._maintained = float("-inf")
        self._connections: list[sqlite3.Connection] = []
        self._inode: int | None = None
        self._cannot_open: Exception | None = None
        self._opened_at = float("-inf")
        try:
            with self._gate.alone(), self._read_lock:
                self._open()
        except BaseException:
            self._mirror.close()
            self._gate.close()
            raise

    def close(self) -> None:
        """Close all files."""
        with self._gate.shared(), self._read_lock:
            self._close_connections()
            self._mirror.close()
        self._gate.close()

    def limit(self, limits: Mapping[str, Any]) -> None:
        """Other values for fields of the rules, from the next transaction on."""
        self._rules = self._rules.model_copy(update=limits)

    def append(self, lane: str, events: Sequence[Event], *, kept: bool = False) -> list[int]:
        """Store events; threads that come at the same time share a commit. Raises OutboxError, after counting the failure if the caller
        has not `kept` the events."""
        mine = Append(lane, events, kept)
        with self._waiting_lock:
            self._waiting.append(mine)
        with self._gate.threads:
            if not mine.done:
                with self._waiting_lock:
                    together, self._waiting = self._waiting, []
                self._append_all(together)
        if mine.error is not None:
            raise mine.error
        return mine.numbers

    def write(self, work: Callable[[Ledger], T]) -> T:
        """Do `work` in one transaction. A damaged database is replaced and the work done again. Raises OutboxError."""
        return self._mending(lambda: self._write_once(work))

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same for reading, in one snapshot."""
        return self._mending(lambda: self._read_once(work))

    def version(self) -> bytes:
        """Changes when anybody commits. Raises OutboxError."""
        with self._typed():
            return self._mirror.version()

    def tidy(self, *, ages: bool = True) -> bool:
        """What must be done from time to time: limits of `ages`, failed appends into the books, losses into rows. Whether it wrote."""
        due = ages and time.monotonic() - self._maintained >= MAINTAIN_S
        if not (due or self._unbooked() or self.read(losses.gathered)):
            return False
        with self._typed():
            self._reserve.ensure()
        self.write(lambda ledger: self._tidy(ledger, due))
        if due:
            recovery.forget_aside(self.path, self._rules.clock.wall() - self._rules.history_age_s)
            self._maintained = time.monotonic()
        return True

    def _tidy(self, ledger: Ledger, due: bool) -> None:
        self._book_failed(ledger)
        if due:
            ledger.maintain()
        ledger.freeze_losses()

    def stats(self) -> dict[str, dict[str, Any]]:
        """The books by lane, with the failed appends that are not in them yet."""
        with self._typed():
            marks = self._mirror.read() or {}
        found = self.read(lambda db: reports.books(db, self._rules.clock))
        for lane, books in found.items():
            failed = marks[lane].failed if lane in marks else 0
            unbooked = max(0, failed - books.pop("booked")) + self._uncounted.get(lane, 0)
            books["produced"] += unbooked
            books["lost"] += unbooked
            if not self._reserve.present():
                books["alarm"] = "the disk is full: events are declared as lost"
        return found

    def erase(self, identity: str) -> int:
        """Blank an identity in every row, in free pages and in what was set aside; returns how many rows held it.

        Raises OutboxError if the log stays in use: then it may still hold the name, and the erasure is to be repeated.
        """
        count = after = 0
        while True:
            batch = self.read(lambda db, after=after: reports.holding(db, identity, after))  # type: ignore[misc]
            if not batch:
                break
            count += self.write(lambda ledger, batch=batch: sum(ledger.blank(n, identity) for n in batch))  # type: ignore[misc]
            after = batch[-1]
        with self._typed(), self._inside():
            recovery.forget_aside(self.path)
        self.write(lambda ledger: ledger.erased(identity))
        for _ in range(WRITE_BACKS):
            with self._typed(), self._inside():
                if schema.write_back(self._writer):
                    return count
        raise OutboxError(f"{self.path}: the name is erased, but the log is in use and may still hold it; erase again")

    def erasures(self) -> int:
        """How often something was erased."""
        return int(self.read(lambda db: db.execute("SELECT COALESCE(MAX(n), 0) FROM erasures").fetchone()[0]))

    def doubtful(self) -> list[str]:
        """See Outbox.doubtful."""
        return [spool for (spool,) in self.read(lambda db: db.execute("SELECT spool FROM doubts").fetchall())]

    def _append_all(self, together: Sequence[Append]) -> None:
        try:
            with self._typed():
                self._reserve.ensure()
            self.write(lambda ledger: self._append_in(ledger, together))
        except OutboxError as error:
            self._fail(together, error)
        finally:
            for one in together:
                one.done = True

    def _append_in(self, ledger: Ledger, together: Sequence[Append]) -> None:
        self._book_failed(ledger)
        for one in together:
            one.error = None
            try:
                one.numbers = ledger.append(one.lane, one.events)
            except OutboxFullError as error:
                if not one.kept:
                    ledger.refuse_append(one.lane, len(one.events), "lane full")
                one.error = error

    def _fail(self, together: Sequence[Append], error: OutboxError) -> None:
        """Nothing was stored: count it where no free space is needed, tell the callers, and declare it if the reserve allows."""
        for one in together:
            fate = "are kept by who brought them" if one.kept else "will be declared as lost"
            one.error = type(error)(f"{len(one.events)} events could not be stored and {fate}: {error}")
            if not one.kept:
                self._uncounted[one.lane] = self._uncounted.get(one.lane, 0) + len(one.events)
        logger.error("events could not be stored: %s", error)
        with suppress(OSError):
            self._count_failed()
        if isinstance(error, OutboxFullError) and self._reserve.release():
            try:
                self.write(self._book_failed)
                with self._typed():
                    schema.write_back(self._writer)
            except OutboxError as second:
                logger.error("%s: the loss is counted and will be declared later: %s", self.path, second)

    def _unbooked(self) -> bool:
        return bool(self._uncounted) or any(mark.failed > mark.booked for mark in self._marks.values())

    def _count_failed(self) -> None:
        if self._uncounted:
            self._marks = self._mirror.count_failed(self._uncounted)
            self._uncounted = {}

    def _book_failed(self, ledger: Ledger) -> None:
        with suppress(OSError):
            self._count_failed()
        for lane, mark in self._marks.items():
            ledger.declare_failed(lane, mark.failed)

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Errors below become those of the outbox."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise schema.error_of(error)(f"{self.path}: {error}") from error

    def _mending(self, work: Callable[[], T]) -> T:
        with self._typed():
            try:
                return work()
            except sqlite3.DatabaseError as error:
                if not schema.is_corrupt(error):
                    raise
                self._recover(error)
                return work()

    def _write_once(self, work: Callable[[Ledger], T]) -> T:
        with self._inside():
            with transaction(self._writer):
                ledger = Ledger(self._writer, self._rules)
                result = work(ledger)
                ledger.save()
            self._mirror_states(ledger.states)
            return result

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """Within the gate, with the file that is there now: it may have been replaced while one waited for the gate."""
        while True:
            with self._gate.shared():
                if not self._replaced():
                    yield
                    return
            self._reopen()

    def _read_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        while True:
            with self._read_lock:
                if not self._replaced():
                    with transaction(self._reader, "DEFERRED"):
                        return work(self._reader)
            self._reopen()

    def _mirror_states(self, states: dict[str, LaneState]) -> None:
        try:
            self._marks = self._mirror.update(states, sync=self._sync)
        except OSError as error:
            logger.error("%s: the mirror of the numbers could not be written: %s", self.path, error)

    def _replaced(self) -> bool:
        try:
            return os.stat(self.path).st_ino != self._inode
        except FileNotFoundError:
            return True

    def _reopen(self) -> None:
        with self._gate.alone(), self._read_lock:
            if self._replaced():
                self._close_connections()
                self._open()

    def _recover(self, error: sqlite3.Error) -> None:
        with self._gate.alone(), self._read_lock:
            damaged = not self._replaced()
            self._close_connections()
            self._open(error if damaged else None)

    def _close_connections(self) -> None:
        self._inode = None
        while self._connections:
            with suppress(sqlite3.Error):
                self._connections.pop().close()

    def _open(self, damage: sqlite3.Error | None = None) -> None:
        """Open or make the database, wholly or not at all; that takes some space too. The caller is alone at the gate."""
        if self._cannot_open is not None and time.monotonic() - self._opened_at < REOPEN_S:
            raise self._cannot_open
        try:
            try:
                self._open_once(damage)
            except (sqlite3.Error, OSError) as error:
                if not (schema.is_full(error) and self._reserve.release()):
                    raise
                self._close_connections()
                self._open_once(damage)
            self._cannot_open = None
        except BaseException as error:
            self._close_connections()
            self._cannot_open = error if isinstance(error, (sqlite3.Error, OSError)) else None
            self._opened_at = time.monotonic()
            raise

    def _open_once(self, damage: sqlite3.Error | None) -> None:
        states = None
        if damage is None and not recovery.under_way(self.path):
            try:
                states = self._open_as_it_is()
            except sqlite3.DatabaseError as error:
                if not schema.is_corrupt(error):
                    raise
                self._close_connections()
                damage = error
        if states is None:
            states = self._open_anew(damage)
        sync_folder(self.path.parent)
        self._marks = self._mirror.update(states, sync=True)
        self._inode = os.stat(self.path).st_ino

    def _open_as_it_is(self) -> dict[str, LaneState]:
        made = self._connect()
        if not made and not reports.knows_boot(self._writer, self._rules.clock):
            schema.check(self._writer)
        with transaction(self._writer):
            return self._settle_in(made, damaged=False)

    def _open_anew(self, damage: sqlite3.Error | None) -> dict[str, LaneState]:
        logger.error("%s is damaged and set aside: %s", self.path, damage or "saving what it held was cut off the last time")
        recovery.set_aside(self.path)
        self._connect()
        recovery.salvage(self.path, self._writer, self._mirror.read() or {})
        with transaction(self._writer):
            states = self._settle_in(made=True, damaged=True)
        recovery.keep_aside(self.path)
        recovery.salvage_history(self.path, self._writer)
        return states

    def _connect(self) -> bool:
        """True if the database is new."""
        make_private(self.path)
        self._writer = schema.connect(self.path, "FULL" if self._sync else "NORMAL")
        self._connections.append(self._writer)
        try:
            made = schema.prepare(self._writer)
        except schema.NewerFormatError:
            raise OutboxError(f"{self.path} was written by a later version of almena; install that, or move the file away") from None
        self._reader = schema.connect(self.path, "NORMAL")
        self._connections.append(self._reader)
        return made

    def _settle_in(self, made: bool, *, damaged: bool) -> dict[str, LaneState]:
        """Make the books agree with rows and mirror."""
        marks = self._mirror.read()
        self.limit({"outbox": self._mirror.identity(anew=made and marks is None)})
        ledger = Ledger(self._writer, self._rules)
        for lane, start in ((lane, self._first_loss if lane == "loss" else 0) for lane in self.lanes):
            ledger.states.setdefault(lane, LaneState(lane, "", seq=start, floor=start))
        if damaged or recovery.behind(ledger.states, marks or {}):
            declared = recovery.reconcile(ledger, self._writer, marks or {}, "damaged" if damaged else "rolled back")
            self._alarm(
                ledger, f"{self.path.name} was {'damaged' if damaged else 'rolled back or lost'}; {declared} events declared as lost"
            )
        elif marks is None and not made:
            self._new_spools(ledger)
            self._alarm(ledger, f"the mirror of {self.path.name} was damaged or lost; new spools are started")
        elif ledger.new_boot:
            self._new_spools(ledger)
        ledger.save()
        return ledger.states

    def _new_spools(self, ledger: Ledger) -> None:
        for lane in self.lanes:
            ledger.start_spool(lane)

    def start_spool(self, lane: str, reason: str) -> None:
        """See Outbox.start_spool."""

        def work(ledger: Ledger) -> None:
            ledger.doubt(lane)
            ledger.start_spool(lane)
            self._alarm(ledger, f"lane {lane} goes on in a new spool: {reason}")

        self.write(work)

    def _alarm(self, ledger: Ledger, text: str) -> None:
        logger.error("%s", text)
        ledger.alarm(text)
