"""What the store needs now and then: roll-ups of telemetry, and forgetting what is too old or too much."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, Table, delete, func, select, update
from sqlalchemy.exc import InterfaceError, OperationalError

from fleet.settings import RetentionSettings
from fleet.store import clocks, sql, tables
from fleet.store.database import writing

log = logging.getLogger(__name__)

EVERY_S = 10.0
ROLL_EVERY_S = 1.0
SETTLED_S = 120.0
"""Samples wait so long, so that a minute is rolled up once and not with every sample."""
AT_ONCE = 500
GONE_AT_ONCE = 2000
"""Of each table with each round: twice of what a batch of the ingest brings, which is as often."""
STEPS = (60, 3600)
OVER = ("done", "failed", "expired")
KEPT_BYTES = 64 * 1024 * 1024
"""Of dead letters, and of replies."""
OVERHEAD = 300
SLACK_S = 86400.0
"""Spools and clocks stay so much longer than the last event of them."""


class Care:
    """Call `round` often; it does little at a time."""

    def __init__(self, engine: Engine, retention: RetentionSettings | None = None) -> None:
        self._engine = engine
        self._retention = retention or RetentionSettings()
        self._rolled = self._purged = self._weighed = float("-inf")
        self._told = ""

    def round(self, now: float) -> None:
        """What is due at `now`. Raises OperationalError or InterfaceError; any other error is told in the log, and its part tried again."""
        if time.monotonic() - self._rolled > ROLL_EVERY_S:
            more = self._done(partial(roll_up, now=now)) == AT_ONCE
            self._rolled = float("-inf") if more else time.monotonic()
        if time.monotonic() - self._purged > EVERY_S:
            more = self._done(partial(purge, kept=self._retention, now=now)) == GONE_AT_ONCE
            self._purged = float("-inf") if more else time.monotonic()
        if time.monotonic() - self._weighed > EVERY_S:
            self._done(partial(weigh, kept=self._retention, now=now))
            self._weighed = time.monotonic()

    def _done(self, part: Callable[[Connection], int]) -> int | None:
        """What it returns; None if it fails."""
        try:
            with writing(self._engine) as connection:
                return part(connection)
        except (OperationalError, InterfaceError):
            raise
        except Exception as error:  # noqa: BLE001 - what the store would do besides must not keep it from storing
            trouble = f"{type(error).__name__}: {error}".partition("\n")[0]
            if trouble != self._told:
                log.error("roll-ups of telemetry, or forgetting, fail, and are tried again: %s", trouble)
            self._told = trouble
            return None


def roll_up(connection: Connection, now: float) -> int:
    """Take samples of some age into minutes and hours; returns how many, AT_ONCE at most."""
    samples, rollups = tables.samples, tables.rollups
    query = select(samples.c.device, samples.c.at, samples.c.figures).where(samples.c.rolled.is_(False), samples.c.at < now - SETTLED_S)
    query = query.order_by(samples.c.at).limit(AT_ONCE).with_for_update(skip_locked=True)
    taken = connection.execute(query).all()
    sums: dict[tuple[str, str, int, int], list[float]] = {}
    for device, at, figures in taken:
        for step in STEPS:
            bucket = max(int(at // step) * step, 0)
            for metric, value in figures.items():
                sums.setdefault((device, metric, step, bucket), []).append(value)
    statement = sql.insert(connection, rollups)
    said, have = statement.excluded, rollups.c
    merged = {
        "n": have.n + said.n,
        "sum": have.sum + said.sum,
        "low": sql.lesser(connection, have.low, said.low),
        "high": sql.greater(connection, have.high, said.high),
    }
    names = ("device", "metric", "step", "bucket")
    rows = [
        {**dict(zip(names, key, strict=True)), "n": len(values), "low": min(values), "high": max(values), "sum": sum(values)}
        for key, values in sorted(sums.items())
    ]
    sql.run(connection, statement.on_conflict_do_update(index_elements=list(names), set_=merged), rows)
    if taken:
        keys = [(device, at) for device, at, _ in taken]
        connection.execute(update(samples).where(sql.among((samples.c.device, samples.c.at), keys)).values(rolled=True))
    return len(taken)


def purge(connection: Connection, kept: RetentionSettings, now: float) -> int:
    """Forget what is too old, GONE_AT_ONCE of each table at most; returns how many of the table where there were most."""
    events, records, samples, rollups = tables.events, tables.records, tables.samples, tables.rollups
    spools, known, commands, alerts = tables.spools, tables.clocks, tables.commands, tables.alerts
    old, past = now - kept.events_s, now - kept.history_s
    conditions: list[tuple[Table, Any]] = [
        (events, events.c.received_at.between(clocks.FLOOR, old)),
        (records, records.c.received_at.between(clocks.FLOOR, old)),
        (spools, spools.c.touched_at.between(clocks.FLOOR, old - SLACK_S)),
        (known, known.c.received_at.between(clocks.FLOOR, old - SLACK_S)),
        (samples, (samples.c.at < now - kept.samples_s) & samples.c.rolled.is_(True)),
        *(
            (rollups, (rollups.c.step == step) & (rollups.c.bucket < now - kept_s))
            for step, kept_s in zip(STEPS, (kept.minutes_s, kept.hours_s), strict=True)
        ),
        (tables.erased_visits, tables.erased_visits.c.at < old),
        (tables.pictures, tables.pictures.c.received_at < now - min(kept.pictures_s, kept.events_s)),
        (commands, commands.c.state.in_(OVER) & (commands.c.expires_at < past)),
        (alerts, (alerts.c.state == "resolved") & (alerts.c.since < past) & (alerts.c.until < past)),
        (tables.audit, tables.audit.c.at < past),
        (tables.maintenance, tables.maintenance.c.ends < past),
    ]
    return max(_delete(connection, table, condition) for table, condition in conditions)


def weigh(connection: Connection, kept: RetentionSettings, now: float) -> int:
    """Forget old dead letters and replies, and the oldest where they are too many; returns how many."""
    gone = 0
    for table, at in ((tables.dead_letters, tables.dead_letters.c.last_at), (tables.replies, tables.replies.c.received_at)):
        key = list(table.primary_key)
        size = func.sum(func.length(table.c.payload) + OVERHEAD).over(order_by=[at.desc(), *key]).label("size")
        sizes = select(*key, at.label("at"), size).subquery()
        many = select(*(sizes.c[column.name] for column in key)).where((sizes.c.size > KEPT_BYTES) | (sizes.c.at < now - kept.refused_s))
        gone += connection.execute(delete(table).where(sql.among(key, many))).rowcount
    return gone


def _delete(connection: Connection, table: Table, condition: Any) -> int:
    key = list(table.primary_key)
    oldest = select(*key).where(condition).limit(GONE_AT_ONCE)
    return connection.execute(delete(table).where(sql.among(key, oldest))).rowcount
