"""When something happened, where the device's clock was not synchronised.

A clock record gives wall and monotonic time of one moment of a boot; every event of that boot has its monotonic time, and so its moment.
Before a record has come, the time of arrival is all that is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, Double, cast, select, text, update

from fleet.store import sql, tables
from fleet.store.batch import Row

Reading = tuple[int, float]
"""Monotonic nanoseconds, Unix seconds."""
FLOOR = 1_577_836_800.0
"""2020. A hub whose clock says less does not know when something has arrived."""
SAME_S = 0.001
"""Readings of one boot that agree so closely change nothing."""
UNSYNCED = text("clock = 'unsynced'")
"""In the very words of the index, or else SQLite does not take it."""


def learn(connection: Connection, rows: Sequence[Row]) -> None:
    """Take in clock records, the last of each boot, and correct what is stored of that boot if it says something new."""
    clocks, events = tables.clocks, tables.events
    newest = {(row.device, row.boot_id): row for row in rows}
    known = _known(connection, newest.keys())
    for key, row in newest.items():
        mono_ns, wall = int(row.envelope.data["mono_ns"]), float(row.envelope.data["wall"])
        device, boot = key
        values = {"mono_ns": mono_ns, "wall": wall, "received_at": row.received_at}
        statement = sql.insert(connection, clocks).values({"device": device, "boot_id": boot, **values})
        connection.execute(statement.on_conflict_do_update(index_elements=["device", "boot_id"], set_=values))
        if key in known and abs(_wall(known[key], mono_ns) - wall) < SAME_S:
            continue
        happened = wall + (cast(events.c.mono_ns, Double) - float(mono_ns)) / 1e9  # of whole numbers the difference may be too large
        unsynced = (events.c.device == device, events.c.boot_id == boot, UNSYNCED)
        connection.execute(update(events).where(*unsynced).values(at=sql.lesser(connection, happened, events.c.received_at)))


def readings(connection: Connection, rows: Iterable[Row]) -> dict[tuple[str, str], Reading]:
    """What is known of the boots of rows that were not synchronised, by device and boot id."""
    return _known(connection, {(row.device, row.boot_id) for row in rows if row.envelope.clock == "unsynced"})


def arrived(row: Row) -> float:
    """When `row` has arrived, Unix seconds; by the device's clock where the hub's says nothing."""
    if row.received_at < FLOOR and row.envelope.clock == "synced":
        return row.envelope.captured_at
    return row.received_at


def effective(row: Row, known: dict[tuple[str, str], Reading]) -> float:
    """When `row` happened, Unix seconds; never after it arrived."""
    envelope = row.envelope
    if envelope.clock == "synced":
        return min(envelope.captured_at, arrived(row))
    reading = known.get((row.device, row.boot_id))
    if reading is None:
        return row.received_at
    return min(_wall(reading, envelope.mono_ns), row.received_at)


def _known(connection: Connection, boots: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Reading]:
    clocks = tables.clocks
    columns = (clocks.c.device, clocks.c.boot_id)
    found = sql.where(connection, select(*columns, clocks.c.mono_ns, clocks.c.wall), columns, sorted(boots))
    return {(device, boot): (mono_ns, wall) for device, boot, mono_ns, wall in found}


def _wall(reading: Reading, mono_ns: int) -> float:
    return reading[1] + (mono_ns - reading[0]) / 1e9
