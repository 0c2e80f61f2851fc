"""Rows of outboxes into the tables that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, or_, update

from fleet.store import clocks, sql, tables
from fleet.store.batch import Row, clean

RECORD = ("device", "spool", "seq", "captured_at", "mono_ns", "boot_id", "received_at", "payload", "at", "lane")
EVENT = (*RECORD[:-1], "stream", "kind", "type", "subject", "identity", "clock", "model")


def add(connection: Connection, fresh: Sequence[Row]) -> None:
    """Store rows that are not stored yet."""
    clocks.learn(connection, [row for row in fresh if row.lane == "clock"])
    known = clocks.readings(connection, fresh)
    sql.add(connection, tables.events, EVENT, [_event(row, known) for row in fresh if row.lane == "event"])
    records = [(*_common(row, known), row.lane) for row in fresh if row.lane in ("audit", "loss", "clock")]
    sql.add(connection, tables.records, RECORD, records)
    _samples(connection, [row for row in fresh if row.lane == "telemetry"], known)


def _common(row: Row, known: dict[tuple[str, str], clocks.Reading]) -> tuple[Any, ...]:
    envelope = row.envelope
    arrival = (clocks.arrived(row), row.payload, clocks.effective(row, known))
    return (row.device, row.spool, row.seq, envelope.captured_at, envelope.mono_ns, row.boot_id, *arrival)


def _event(row: Row, known: dict[tuple[str, str], clocks.Reading]) -> tuple[Any, ...]:
    envelope = row.envelope
    said = envelope.data.get("type")
    stage = clean(said) if isinstance(said, str) else ""
    return (*_common(row, known), envelope.stream, envelope.kind, stage, row.subject, row.names, envelope.clock, clean(envelope.model))


def _samples(connection: Connection, telemetry: Sequence[Row], known: dict[tuple[str, str], clocks.Reading]) -> None:
    """Metrics by time, and of each device the newest sample as a whole."""
    devices = tables.devices
    samples: dict[tuple[str, float], dict[str, Any]] = {}
    newest: dict[str, dict[str, Any]] = {}
    for row in telemetry:
        late_by = clocks.effective(row, known) - row.envelope.captured_at
        for said_at, sample, figures in row.samples:
            at = min(said_at + late_by, row.received_at)
            samples[row.device, at] = {"device": row.device, "at": at, "figures": figures}
            if row.device not in newest or newest[row.device]["when"] <= at:
                newest[row.device] = {"name": row.device, "when": at, "sample": sample, "metrics": figures}
    sql.run(connection, sql.insert(connection, tables.samples).on_conflict_do_nothing(), list(samples.values()))
    older = or_(devices.c.telemetry_at.is_(None), devices.c.telemetry_at <= bindparam("when"))
    values: dict[str, Any] = {"telemetry": bindparam("sample"), "telemetry_at": bindparam("when"), "figures": bindparam("metrics")}
    sql.run(
        connection, update(devices).where(devices.c.device == bindparam("name"), older).values(values), sorted(newest.values(), key=_name)
    )


def _name(row: dict[str, Any]) -> str:
    return str(row["name"])
