"""Whom a device has erased is blanked here too: in what is stored, and in what is still to come."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from agent import wire
from fleet.store import pictures, sql, tables
from fleet.store.batch import SEVERAL, Row, clean, subject


def remember(connection: Connection, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Device and identity of each erasure that `rows` tell of for the first time."""
    newly = []
    for row in rows:
        if row.lane == "audit" and (identity := _erased(row)):
            statement = sql.insert(connection, tables.erased).values(device=row.device, identity=identity).on_conflict_do_nothing()
            if connection.execute(statement).rowcount:
                newly.append((row.device, identity))
    return newly


def blank(connection: Connection, rows: Sequence[Row]) -> None:
    """Take whoever is erased out of rows that come in, and out of the pictures of the same visits."""
    erased = tables.erased
    keys = sorted({(row.device, who) for row in rows if (who := row.identity)})
    columns = (erased.c.device, erased.c.identity)
    gone = {(device, identity) for device, identity in sql.where(connection, select(*columns), columns, keys)}
    for row in rows if gone else ():
        if row.identity and (row.device, row.identity) in gone:
            pictures.forget_visits(connection, row.device, _tracks(row.payload), time.time())
            row.payload = wire.blanked(row.payload, row.identity) or row.payload
            row.subject = _subject(row.payload)
            row.names = SEVERAL if row.names == SEVERAL else None


def scrub(connection: Connection, device: str, identity: str) -> None:
    """Take an identity and its name out of everything that is stored of `device`."""
    needle = json.dumps(identity, ensure_ascii=False).encode()
    events, records = tables.events, tables.records
    named = (events.c.identity.is_not(None), events.c.identity.in_((identity, SEVERAL)))
    tracks: set[str] = set()
    for table, narrow in ((events, named), (records, (records.c.lane == "audit",))):
        columns = (table.c.spool, table.c.seq, table.c.payload)
        query = select(*columns).where(table.c.device == device, *narrow, sql.contains(connection, table.c.payload, needle))
        changes = []
        for found in connection.execute(query).all():
            if (payload := wire.blanked(found.payload, identity)) is not None:
                told = {"now_subject": _subject(payload)} if table is events else {}
                changes.append({"of_spool": found.spool, "of_seq": found.seq, "now_payload": payload, **told})
                tracks |= _tracks(found.payload) if table is events else set()
        own = (table.c.device == device, table.c.spool == bindparam("of_spool"), table.c.seq == bindparam("of_seq"))
        values: dict[str, Any] = {"payload": bindparam("now_payload")} | ({"subject": bindparam("now_subject")} if table is events else {})
        sql.run(connection, update(table).where(*own).values(values), changes)
    pictures.forget_visits(connection, device, tracks, time.time())
    connection.execute(update(events).where(events.c.device == device, events.c.identity == identity).values(identity=None))
    letters = tables.dead_letters
    in_letters = sql.contains(connection, letters.c.payload, needle)
    connection.execute(update(letters).where(letters.c.device == device, in_letters).values(payload=b""))


def _tracks(payload: bytes) -> set[str]:
    return {pictures.track_of(json.loads(payload)["data"])}


def _subject(payload: bytes) -> str:
    envelope = json.loads(payload)
    return subject(envelope["kind"], envelope["data"])


def _erased(row: Row) -> str | None:
    """The identity that the device says it has erased."""
    said, detail = row.envelope.data, row.envelope.data.get("detail")
    identity = detail.get("id") if isinstance(detail, dict) else None
    done = said.get("action") == wire.IDENTITY_ERASE and said.get("outcome") == "done"
    return identity if done and isinstance(identity, str) and identity == clean(identity) else None
