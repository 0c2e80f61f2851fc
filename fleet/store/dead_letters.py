"""Messages that could not be stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import Connection

from fleet.store import sql, tables
from fleet.store.batch import Refused, clean

KEPT_OF_ONE = 64 * 1024


def keep(connection: Connection, refused: Sequence[Refused]) -> None:
    """Each once, with the number of times that it came."""
    letters = tables.dead_letters
    statement = sql.insert(connection, letters)
    said = statement.excluded
    upsert = statement.on_conflict_do_update(
        index_elements=["digest"], set_={"times": letters.c.times + 1, "last_at": said.last_at, "reason": said.reason}
    )
    rows = [
        {
            "digest": hashlib.sha256(one.topic.encode() + b"\0" + one.payload).hexdigest(),
            "device": one.device,
            "topic": clean(one.topic, 1000),
            "reason": clean(one.reason, 1000),
            "first_at": one.at,
            "last_at": one.at,
            "times": 1,
            "payload": one.payload[:KEPT_OF_ONE],
        }
        for one in refused
    ]
    sql.run(connection, upsert, sorted(rows, key=lambda row: str(row["digest"])))
