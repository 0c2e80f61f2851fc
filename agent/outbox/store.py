"""One database with some lanes: transactions, shared commits, and what happens when they fail."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from agent.datatypes import Event
from agent.outbox import losses, recovery, reports, schema
from agent.outbox.guard import Gate, Reserve, sync_folder
from agent.outbox.ledger import Ledger
from agent.outbox.mirror import Mark, Mirror
from agent.outbox.rows import LaneState, OutboxError, OutboxFullError, Rules, new_spool

logger = logging.getLogger(__name__)

T = TypeVar("T")
MAINTAIN_S = 30.0


@dataclass(slots=True, eq=False)
class _Append:
    """One caller's events on their way into a shared commit."""

    lane: str
    events: Sequence[Event]
    kept: bool = False
    done: bool = False
    numbers: list[int] = field(default_factory=list)
    error: OutboxError | None = None


class Store:
    """A database file `<name>.db`, its mirror `<name>.seq`, its gate `<name>.lock` and the reserve that the stores share.

    `first_loss` is the number before the first of its loss records: each store counts these in a range of its own, so that numbers
    order the loss lane of all of them. `sync`: a commit is on the disk when it returns; otherwise every boot starts new spools,
    because a power cut may have taken back what was published.
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
        self._waiting: list[_Append] = []
        self._waiting_lock = threading.Lock()
        self._read_lock = threading.RLock()
        self._uncounted: dict[str, int] = {}
        self._marks: dict[str, Mark] = {}
        self._maintained = float("-inf")
        self._writer: sqlite3.Connection
        self._reader: sqlite3.Connection
        try:
            with self._gate.alone(), self._read_lock:
                self._open_with_reserve()
        except BaseException:
            self._mirror.close()
            self._gate.close()
            raise

    def close(self) -> None:
        """Close all files."""
        with self._gate.shared(), self._read_lock:
            self._reader.close()
            self._writer.close()
            self._mirror.close()
        self._gate.close()

    def append(self, lane: str, events: Sequence[Event], *, kept: bool = False) -> list[int]:
        """Store events; threads that come at the same time share a commit. Raises OutboxError, after counting the failure if the caller
        has not `kept` the events."""
        mine = _Append(lane, events, kept)
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
        """Do `work` in one transaction. A damaged database is replaced and the work done again. Raises sqlite3.Error, OSError."""
        try:
            return self._write_once(work)
        except sqlite3.DatabaseError as error:
            if not schema.is_corrupt(error):
                raise
            self._recover(error)
            return self._write_once(work)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same for reading, in one snapshot."""
        try:
            return self._read_once(work)
        except sqlite3.DatabaseError as error:
            if not schema.is_corrupt(error):
                raise
            self._recover(error)
            return self._read_once(work)

    def version(self) -> bytes:
        """Changes when anybody commits."""
        return self._mirror.version()

    def tidy(self) -> None:
        """What must be done from time to time: age limits, failed appends into the books, loss records into rows."""
        due = time.monotonic() - self._maintained >= MAINTAIN_S
        if due or self._unbooked() or self.read(losses.gathered):
            self._reserve.ensure()
            self.write(lambda ledger: self._tidy(ledger, due))
            if due:
                self._maintained = time.monotonic()

    def _tidy(self, ledger: Ledger, due: bool) -> None:
        self._book_failed(ledger)
        if due:
            ledger.maintain()
        ledger.freeze_losses()

    def stats(self) -> dict[str, dict[str, Any]]:
        """The books by lane, with the failed appends that are not in them yet."""
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
        """Blank an identity in every row, in free pages and in what was set aside; returns how many rows held it."""
        recovery.forget_aside(self.path)
        count = after = 0
        while True:
            batch = self.read(lambda db, after=after: reports.holding(db, identity, after))  # type: ignore[misc]
            if not batch:
                break
            self.write(lambda ledger, batch=batch: [ledger.rewrite(n, payload) for n, payload in batch])  # type: ignore[misc]
            count, after = count + len(batch), batch[-1][0]
        with self._gate.shared():
            schema.write_back(self._writer)
        return count

    def _append_all(self, together: Sequence[_Append]) -> None:
        try:
            self._reserve.ensure()
            self.write(lambda ledger: self._append_in(ledger, together))
        except (sqlite3.Error, OSError, OutboxError) as error:
            self._fail(together, error)
        finally:
            for one in together:
                one.done = True

    def _append_in(self, ledger: Ledger, together: Sequence[_Append]) -> None:
        self._book_failed(ledger)
        for one in together:
            one.error = None
            try:
                one.numbers = ledger.append(one.lane, one.events)
            except OutboxFullError as error:
                if not one.kept:
                    ledger.refuse_append(one.lane, len(one.events), "lane full")
                one.error = error

    def _fail(self, together: Sequence[_Append], error: Exception) -> None:
        """Nothing was stored: count it where no free space is needed, tell the callers, and declare it if the reserve allows."""
        full = schema.is_full(error)
        kind = OutboxFullError if full else OutboxError
        for one in together:
            fate = "are kept by who brought them" if one.kept else "will be declared as lost"
            one.error = kind(f"{self.path}: {len(one.events)} events could not be stored and {fate}: {error}")
            if not one.kept:
                self._uncounted[one.lane] = self._uncounted.get(one.lane, 0) + len(one.events)
        logger.error("%s: events could not be stored: %s", self.path, error)
        with suppress(OSError):
            self._count_failed()
        if full and self._reserve.release():
            try:
                self.write(self._book_failed)
                schema.write_back(self._writer)
            except (sqlite3.Error, OSError) as second:
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

    def _write_once(self, work: Callable[[Ledger], T]) -> T:
        if self._replaced():
            self._reopen()
        with self._gate.shared():
            with schema.transaction(self._writer):
                ledger = Ledger(self._writer, self._rules)
                result = work(ledger)
                ledger.save()
            self._mirror_states(ledger.states)
            return result

    def _read_once(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._replaced():
            self._reopen()
        with self._read_lock, schema.transaction(self._reader, "DEFERRED"):
            return work(self._reader)

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
        for connection in (self._reader, self._writer):
            with suppress(sqlite3.Error):
                connection.close()

    def _open_with_reserve(self) -> None:
        """Opening takes some space too."""
        try:
            self._open()
        except sqlite3.OperationalError as error:
            if not (schema.is_full(error) and self._reserve.release()):
                raise
            self._open()

    def _open(self, damage: sqlite3.Error | None = None) -> None:
        """Open or make the database. The caller is alone at the gate."""
        aside = None
        if damage is None:
            try:
                made = self._connect(check=True)
            except sqlite3.DatabaseError as error:
                if not schema.is_corrupt(error):
                    raise OutboxError(f"{self.path} cannot be opened: {error}") from error
                damage = error
        if damage is not None:
            logger.error("%s is damaged and set aside: %s", self.path, damage)
            aside = recovery.set_aside(self.path)
            made = self._connect(check=False)
        sync_folder(self.path.parent)
        self._inode = os.stat(self.path).st_ino
        with schema.transaction(self._writer):
            states = self._settle_in(made, aside)
        self._marks = self._mirror.update(states, sync=True)

    def _connect(self, *, check: bool) -> bool:
        """True if the database is new."""
        self._writer = schema.connect(self.path, "FULL" if self._sync else "NORMAL")
        try:
            made = schema.prepare(self._writer)
            if check:
                schema.check(self._writer)
            self._reader = schema.connect(self.path, "NORMAL")
        except schema.NewerFormatError:
            self._writer.close()
            raise OutboxError(f"{self.path} was written by a later version of almena; install that, or move the file away") from None
        except sqlite3.Error:
            self._writer.close()
            raise
        return made

    def _settle_in(self, made: bool, aside: Path | None) -> dict[str, LaneState]:
        """Make the books agree with rows and mirror."""
        if aside is not None:
            recovery.salvage(aside, self._writer)
        ledger = Ledger(self._writer, self._rules)
        for lane in self.lanes:
            start = self._first_loss if lane == "loss" else 0
            ledger.states.setdefault(lane, LaneState(lane, new_spool(), seq=start, floor=start))
        marks = self._mirror.read()
        if aside is not None or recovery.behind(ledger.states, marks or {}):
            declared = recovery.reconcile(ledger, self._writer, marks or {}, "damaged" if aside else "rolled back")
            self._alarm(ledger, f"{self.path.name} was {'damaged' if aside else 'rolled back or lost'}; {declared} events declared as lost")
        elif marks is None and not made:
            self._new_spools(ledger)
            self._alarm(ledger, f"the mirror of {self.path.name} was damaged or lost; new spools are started")
        elif ledger.new_boot and not self._sync:
            self._new_spools(ledger)
        ledger.save()
        return ledger.states

    def _new_spools(self, ledger: Ledger) -> None:
        for lane in self.lanes:
            ledger.start_spool(lane)

    def _alarm(self, ledger: Ledger, text: str) -> None:
        logger.error("%s", text)
        ledger.alarm(text)
