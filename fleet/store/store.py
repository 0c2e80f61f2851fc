"""What the hub has received: every row exactly once under (device, spool, seq)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from agent import wire
from fleet.intervals import Intervals
from fleet.store import dead_letters, device_rows, erasure, rows, spools, sql, tables
from fleet.store.batch import Batch, Refused, Row, clean
from fleet.store.database import LOCK_WAIT_S, connect, migrate, writing
from fleet.store.erased_list import ErasedList, reconcile
from fleet.store.spools import MOST_LOST, MOST_RANGES, Key, Spool

log = logging.getLogger(__name__)

MOST_SPOOLS = 10_000
"""Of one device. Rows of a further one are refused, until old ones are forgotten (`fleet.store.care`)."""


class Store:
    """Where batches go. One thread uses it."""

    def __init__(self, store: str | Engine, erased: ErasedList | None = None) -> None:
        """A URL or an engine; its tables are made, or brought to this version. Whoever stands in `erased` is erased again, if need be."""
        self.engine = connect(store) if isinstance(store, str) else store
        self.refused = 0
        """Messages that were refused, since the start."""
        self.refusal = ""
        """Topic and reason of the newest of them."""
        migrate(self.engine)
        self._scrub = self.engine.dialect.name == "sqlite"
        self._erased = erased
        if erased is not None and (again := reconcile(self.engine, erased)):
            log.warning("%d erasures that this database had forgotten, an old copy of it perhaps, were made again", again)

    def write(self, batch: Batch) -> list[tuple[str, wire.Ack]]:
        """Store it, durably; only then may it be acknowledged. Returns device and acknowledgement for each spool that was touched.

        Raises sqlalchemy.exc.SQLAlchemyError, and then nothing of it is stored.
        """
        with writing(self.engine) as connection:
            transaction = _Transaction(connection, batch)
            transaction.run()
            if self._erased is not None:
                self._erased.add(transaction.erased)
        if refused := transaction.refused:
            self.refused += len(refused)
            self.refusal = f"{refused[-1].topic}: {refused[-1].reason}"
        self._scrub |= bool(transaction.erased) and self.engine.dialect.name == "sqlite"
        if self._scrub:  # what was erased is to leave the log too; a reader may have to go first
            self._scrub = not self._log_emptied()
        return transaction.acks()

    def _log_emptied(self) -> bool:
        """Whether SQLite's log is empty now. It is not while somebody reads; that is not waited for, the next write tries again."""
        with self.engine.connect() as connection:
            database: Any = connection.connection.driver_connection
            database.execute("PRAGMA busy_timeout=0")
            try:
                return not database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                database.execute(f"PRAGMA busy_timeout={LOCK_WAIT_S * 1000}")

    def newest(self) -> float | None:
        """When the newest event has arrived, Unix seconds."""
        with self.engine.connect() as connection:
            events = tables.events
            return connection.execute(select(events.c.received_at).order_by(events.c.id.desc()).limit(1)).scalar()

    def close(self) -> None:
        """Close its connections."""
        self.engine.dispose()


class _Transaction:
    """One batch within one transaction.

    It begins with the rows of all its devices in `devices`, in order. On PostgreSQL that keeps these devices from other hubs until it ends:
    what it reads of a device stays true, and no two hubs wait for each other in a circle.
    """

    def __init__(self, connection: Connection, batch: Batch) -> None:
        self._connection = connection
        self._batch = batch
        self.refused = list(batch.refused)
        self._spools: dict[Key, Spool] = {}
        self._stored: dict[Key, Intervals] = defaultdict(Intervals)
        self._losses: dict[str, int] = defaultdict(int)
        self._room: dict[str, int] = {}
        self.erased: list[tuple[str, str]] = []

    def run(self) -> None:
        """Each step sees what it needs of those before."""
        connection, batch = self._connection, self._batch
        device_rows.leave_removed(connection, batch)
        device_rows.lock(connection, batch.seen)
        device_rows.take(connection, batch)
        self._read_spools()
        fresh = self._fresh()
        self.erased = erasure.remember(connection, fresh)
        erasure.blank(connection, fresh)
        rows.add(connection, fresh)
        for row in fresh:
            if row.loss is not None and row.declared is not None:
                self._declare(row, row.loss, row.declared)
        self._write_spools()
        device_rows.count_losses(connection, self._losses)
        dead_letters.keep(connection, self.refused)
        for device, identity in self.erased:
            erasure.scrub(connection, device, identity)

    def acks(self) -> list[tuple[str, wire.Ack]]:
        """Call after the commit."""
        refused: dict[Key, dict[int, str]] = defaultdict(dict)
        for one in self.refused:
            if one.seq:
                refused[one.device, one.spool][one.seq] = one.reason[:200]
        found = []
        for key in sorted(self._stored.keys() | refused.keys()):
            upto = self._spools[key].upto
            above = tuple((max(low, upto + 1), high) for low, high in self._stored.get(key, ()) if high > upto)
            noes = tuple(wire.Refusal(seq=seq, reason=reason) for seq, reason in refused.get(key, {}).items())
            found.append((key[0], wire.Ack(spool=key[1], upto=upto, ranges=above, refused=noes)))
        return found

    def _read_spools(self) -> None:
        keys = {(row.device, row.spool) for row in self._batch.rows}
        keys |= {(row.device, row.lost_spool) for row in self._batch.rows if row.loss}
        keys |= {(one.device, one.spool) for one in self.refused if one.seq}
        self._spools = spools.read(self._connection, keys)
        self._room = self._left()

    def _left(self) -> dict[str, int]:
        """Of devices that begin a spool, how many more they may."""
        table = tables.spools
        beginning = sorted({device for (device, _), spool in self._spools.items() if not spool.known})
        query = select(table.c.device, func.count()).group_by(table.c.device)
        have = dict(sql.where(self._connection, query, (table.c.device,), [(one,) for one in beginning]))
        return {device: max(0, MOST_SPOOLS - have.get(device, 0)) for device in beginning}

    def _fresh(self) -> list[Row]:
        """The rows that are not stored yet, each once. The others count as stored, or are refused where another one has their number."""
        origins = self._origins([row for row in self._batch.rows if row.seq in self._spools[row.device, row.spool].ranges])
        fresh: dict[tuple[str, str, int], Row] = {}
        for row in self._batch.rows:
            spool = self._spools[row.device, row.spool]
            if reason := self._objection(row, spool, origins.get(row.key, row.origin)):
                self._refuse(row, reason)
                continue
            spool.lane, spool.outbox = row.lane, spool.outbox or row.envelope.outbox
            self._stored[row.device, row.spool].add(row.seq)
            if row.seq not in spool.ranges or row.seq in spool.lost:
                fresh[row.key] = row
                origins[row.key] = row.origin
                spool.ranges.add(row.seq)
            if row.seq in spool.lost:
                spool.lost.remove(row.seq)
                spool.given_up.remove(row.seq)
                self._losses[row.device] -= row.lane != "telemetry"
        return list(fresh.values())

    def _objection(self, row: Row, spool: Spool, origin: tuple[str, int, str]) -> str:
        """Why a row cannot be stored; empty where it can. A spool that begins with it counts."""
        if origin != row.origin:
            return "another message is stored under this number; the device's outbox was rolled back"
        if len(spool.ranges) >= MOST_RANGES and row.seq not in spool.ranges and not spool.ranges.beside(row.seq):
            return f"the numbers of this spool have {MOST_RANGES} gaps already"
        return "" if self._begun(row.device, spool) else f"this device has {MOST_SPOOLS} spools already"

    def _refuse(self, row: Row, reason: str) -> None:
        topic = wire.lane_topic(row.device, row.lane, row.envelope.stream, row.envelope.kind)
        self.refused.append(Refused(row.device, topic, row.payload, reason, row.received_at, row.spool, row.seq))

    def _origins(self, rows: Sequence[Row]) -> dict[tuple[str, str, int], tuple[str, int, str]]:
        """What is stored under the numbers of `rows`; nothing of telemetry, and of what is no longer kept."""
        found = {}
        keys = sorted({row.key for row in rows if row.lane != "telemetry"})
        for table, kind in ((tables.events, tables.events.c.kind), (tables.records, tables.records.c.lane)):
            columns = (table.c.device, table.c.spool, table.c.seq)
            query = select(*columns, table.c.boot_id, table.c.mono_ns, kind)
            for device, spool, seq, *origin in sql.where(self._connection, query, columns, keys):
                found[device, spool, seq] = (origin[0], origin[1], origin[2])
        return found

    def _declare(self, row: Row, loss: wire.Loss, declared: Intervals) -> None:
        """Close the gaps that a loss record tells of; what was declared before, or has come all the same, is not counted again.

        What there is no room for stays missing.
        """
        device, spool = row.device, self._spools[row.device, row.lost_spool]
        newly = [gap for low, high in declared for gap in spool.ranges.gaps(low, high)] if self._begun(device, spool) else []
        closed = Intervals()
        for low, high in newly:
            if len(spool.ranges) < MOST_RANGES or spool.ranges.beside(low) or spool.ranges.beside(high):
                spool.ranges.add(low, high)
                spool.lost.add(low, high)
                closed.add(low, high)
        spool.lost.keep_highest(MOST_RANGES)
        spool.lane, spool.outbox = clean(loss.lane), spool.outbox or row.envelope.outbox
        if loss.lane != "telemetry":
            numberless = max(0, loss.count - declared.count)
            self._losses[device] += min(MOST_LOST, closed.count + numberless)

    def _begun(self, device: str, spool: Spool) -> bool:
        """Whether it is stored, or may be."""
        if not spool.known and self._room[device]:
            self._room[device] -= 1
            spool.known = True
        return spool.known

    def _write_spools(self) -> None:
        """Those that rows have touched; a refusal changes none."""
        touched = self._stored.keys() | {(row.device, row.lost_spool) for row in self._batch.rows if row.loss}
        now = max((row.received_at for row in self._batch.rows), default=0.0)
        known = {key: self._spools[key] for key in sorted(touched) if self._spools[key].known}
        for spool in known.values():
            spool.touched_at = now
        for device, came in spools.link(self._connection, known).items():
            self._losses[device] -= came
        spools.write(self._connection, known, now)
