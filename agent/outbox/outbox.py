"""The outbox as both processes see it."""

from __future__ import annotations

import json
import logging
import platform
import sqlite3
import threading
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from agent.clock import Clock
from agent.datatypes import Event
from agent.outbox import tracks
from agent.outbox.failing import Failing
from agent.outbox.guard import FOLDER_MODE, restrict
from agent.outbox.rows import LANES, OutboxError, Row, Rules
from agent.outbox.store import Store
from agent.settings import MEBIBYTE, LaneSettings, OutboxSettings

logger = logging.getLogger(__name__)

Own = TypeVar("Own", bound="Outbox")
POLL_S = 0.2
_TELEMETRY_LOSSES = 1 << 40


class Outbox:
    """Lanes of events on their way to the hub. Both processes open it at once, with any number of threads.

    For every lane and at every moment: produced = settled + lost + pending, where produced counts what was handed to `append`.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = tuple(stores)
        self._by_lane = {lane: store for store in reversed(self._stores) for lane in store.lanes}
        self._failing = Failing()
        self._news = threading.Condition()
        self._seen: object = None

    @classmethod
    def open(cls: type[Own], directory: Path, device: str, settings: OutboxSettings, clock: Clock | None = None) -> Own:
        """Open or make it. A damaged file is set aside and a new one started. Raises OutboxError if the folder cannot be used."""
        rules = Rules(device=device, host=platform.node(), clock=clock or Clock(), **_limits(settings))
        telemetry_rules = rules.model_copy(update=_telemetry_limits(settings))
        try:
            directory.mkdir(parents=True, exist_ok=True)
            restrict(directory, FOLDER_MODE)
            main = Store(directory, "outbox", ("event", "audit", "clock", "loss"), rules, sync=True, first_loss=0)
            try:
                other = Store(directory, "telemetry", ("telemetry", "loss"), telemetry_rules, sync=False, first_loss=_TELEMETRY_LOSSES)
            except BaseException:
                main.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise OutboxError(f"the outbox in {directory} cannot be opened: {error}") from error
        return cls((main, other))

    def limit(self, settings: OutboxSettings) -> None:
        """From the next transaction on these limits hold for what this process writes."""
        main, telemetry = self._stores
        main.limit(_limits(settings))
        telemetry.limit(_limits(settings) | _telemetry_limits(settings))

    def close(self) -> None:
        """Close all files."""
        for store in self._stores:
            store.close()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def append(self, lane: str, events: Sequence[Event], *, kept: bool = False) -> list[int]:
        """Store events in one transaction; returns their numbers. When it returns they are durable (telemetry: survives a crash of the
        process, not of the machine).

        An event whose key was appended before is not stored again and gets its old number. One that has no JSON form or is too large
        takes a number and is declared as lost at once. Raises OutboxFullError or OutboxError; then all are counted, and declared as lost
        as soon as writing works, unless they are `kept`: then the caller has them still and brings them again.
        """
        if not events:
            return []
        store = self._store(lane)
        with self._failing.attempt(store):
            numbers = store.append(lane, events, kept=kept)
        with self._news:
            self._news.notify_all()
        return numbers

    def tidy(self, *, ages: bool = True) -> None:
        """What is to be done from time to time, whether anybody takes rows or not: `ages`, and loss records. Call it often."""
        for store in self._stores:
            try:
                if store.tidy(ages=ages):
                    self._failing.worked(store)
            except OutboxError as error:
                self._failing.failed(store, error)
                logger.debug("ages and loss records wait until the disk can be written: %s", error)

    def pending(self, lane: str, limit: int, after_seq: int = 0) -> list[Row]:
        """Unsettled rows with a number above `after_seq`, in order. Numbers grow within a lane, also from one spool to the next."""
        if lane == "loss":
            self.tidy()
        rows: list[Row] = []
        for store in self._stores:
            if lane in store.lanes and len(rows) < limit:
                rows += self._pending(store, lane, limit - len(rows), after_seq)
        return rows

    def settle(
        self,
        lane: str,
        spool: str,
        upto: int | None = None,
        ranges: Sequence[tuple[int, int]] = (),
        refused: Sequence[tuple[int, str]] = (),
    ) -> int:
        """Settle pending rows of `spool`: all up to `upto` and those in `ranges` (both ends included), without the refused ones.

        A row that is refused for the fifth time is dead and declared as lost with the last reason. Returns how many rows left the lane;
        settling again does nothing.
        """
        self._store(lane)
        spans = [*([(1, upto)] if upto else []), *ranges]
        if not spans and not refused:
            return 0
        stores = [store for store in self._stores if lane in store.lanes]
        try:
            return sum(self._settle(store, lane, spool, spans, refused) for store in stores)
        except OutboxError as error:
            raise OutboxError(f"rows of lane {lane} could not be settled, and will be sent again: {error}") from error

    def _settle(self, store: Store, lane: str, spool: str, spans: Sequence[tuple[int, int]], refused: Sequence[tuple[int, str]]) -> int:
        with self._failing.attempt(store):
            return store.write(lambda ledger: ledger.settle(lane, spool, spans, refused))

    @property
    def failing_for_s(self) -> float:
        """Seconds since nothing can be stored although there is room; 0 while that works. `tidy` finds out whether it works again."""
        return self._failing.for_s

    def start_spool(self, lane: str, reason: str) -> None:
        """Go on under a new spool, with an alarm. For a hub that has acknowledged numbers which were never given: then this outbox was
        restored from a copy, and goes on with numbers that the hub takes for stored."""
        self._store(lane)
        for store in self._stores:
            if lane in store.lanes:
                store.start_spool(lane, reason)

    def doubtful(self) -> frozenset[str]:
        """Spools that ended so and still have pending rows: what the hub acknowledged in them may be other rows."""
        return frozenset(spool for store in self._stores for spool in store.doubtful())

    def wait(self, timeout: float) -> bool:
        """Sleep until something was committed since the last call that said True, by anybody; False at the time-out."""
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                now = tuple(store.version() for store in self._stores)
                if now != self._seen:
                    self._seen = now
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._news.wait(min(POLL_S, left))

    def history(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        stream: str | None = None,
        kind: str | None = None,
        lane: str = "event",
        limit: int = 100,
        newest_first: bool = True,
        before: tuple[float, int] | None = None,
        after_seq: int | None = None,
    ) -> list[dict[str, Any]]:
        """Envelopes of a lane that are still here, settled or not, by the time of capture (Unix seconds; `until` is excluded).

        `before` leaves out everything from that time of capture and number on, which are the last row's of the page before.
        With `after_seq`, for those who follow: those with a higher number, by number, oldest first.
        """
        conditions = {"captured_at >= ?": since, "captured_at < ?": until, "stream = ?": stream, "kind = ?": kind, "seq > ?": after_seq}
        asked = {text: value for text, value in conditions.items() if value is not None}
        where = " AND ".join(["lane = ?", *asked, *(["(captured_at, seq) < (?, ?)"] if before else [])])
        order = "seq ASC" if after_seq is not None else "captured_at DESC, seq DESC" if newest_first else "captured_at ASC, seq ASC"
        values = (lane, *asked.values(), *(before or ()), limit)
        query = f"SELECT captured_at, seq, payload FROM rows WHERE {where} ORDER BY {order} LIMIT ?"
        self._store(lane)
        stores = [store for store in self._stores if lane in store.lanes]
        rows = [row for store in stores for row in store.read(lambda db: db.execute(query, values).fetchall())]
        rows.sort(key=lambda row: row[1:2] if after_seq is not None else row[:2], reverse=newest_first and after_seq is None)
        return [json.loads(payload) for _, _, payload in rows[:limit]]

    def open_tracks(self) -> list[dict[str, Any]]:
        """The envelope of the last event of every track (`data.track`) that has no `end` yet, whether its row is still here or not."""
        return self._store("event").read(tracks.open_ones)

    def stats(self) -> dict[str, dict[str, Any]]:
        """The books, by lane: spool, seq, produced, settled, lost (declared, or about to be), pending, dead, bytes (of pending rows),
        history_bytes, oldest_age_s (None: nothing pending) and alarm ("" if all is well)."""
        stats: dict[str, dict[str, Any]] = {}
        for store in self._stores:
            for lane, books in store.stats().items():
                stats[lane] = _joined(stats[lane], books) if lane in stats else books
        return stats

    def erase(self, identity: str) -> int:
        """Blank an identity and its name in every row, sent or not, and in what was set aside; returns how many rows held it.

        What the hub has already got is erased there on the word of the audit lane. Raises OutboxError if traces are left: erase again.
        """
        try:
            return sum(store.erase(identity) for store in self._stores)
        except (sqlite3.Error, OSError) as error:
            raise OutboxError(f"the history could not be erased: {error}") from error

    def erasures(self) -> int:
        """Grows with every erasure: payloads that were read before are void, because they may hold what was erased."""
        return sum(store.erasures() for store in self._stores)

    def _store(self, lane: str) -> Store:
        try:
            return self._by_lane[lane]
        except KeyError:
            raise OutboxError(f"there is no lane {lane!r}; there are: {', '.join(LANES)}") from None

    def _pending(self, store: Store, lane: str, limit: int, after_seq: int) -> list[Row]:
        query = "SELECT spool, seq, stream, kind, payload, checksum FROM rows WHERE lane=? AND state=0 AND seq>? ORDER BY seq LIMIT ?"
        found = store.read(lambda db: db.execute(query, (lane, after_seq, limit)).fetchall())
        damaged = [(spool, seq) for spool, seq, _, _, payload, checksum in found if zlib.crc32(payload) != checksum]
        if damaged:
            store.write(lambda ledger: ledger.drop_damaged(lane, damaged))
        bad = {seq for _, seq in damaged}
        return [Row(lane, spool, seq, stream, kind, payload) for spool, seq, stream, kind, payload, _ in found if seq not in bad]


def _limits(settings: OutboxSettings) -> dict[str, Any]:
    """What of the rules the settings say."""
    clock = LaneSettings(max_bytes=MEBIBYTE, max_age_s=settings.event.max_age_s)
    return {
        "limits": {"event": settings.event, "telemetry": settings.telemetry, "clock": clock},
        "audit_bytes": settings.audit.max_bytes,
        "history_bytes": settings.history_bytes,
        "history_age_s": settings.history_age_s,
    }


def _telemetry_limits(settings: OutboxSettings) -> dict[str, Any]:
    """What is otherwise in the file of telemetry."""
    return {"history_bytes": min(settings.history_bytes, settings.telemetry.max_bytes)}


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The books of a lane that two stores have."""
    ages = [age for age in (one["oldest_age_s"], other["oldest_age_s"]) if age is not None]
    counts = {name: one[name] + other[name] for name in one if isinstance(one[name], int) and name != "seq"}
    return {**one, **counts, "oldest_age_s": max(ages, default=None), "alarm": one["alarm"] or other["alarm"]}
