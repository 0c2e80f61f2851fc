"""What keeps a store quick and bounded over years: whom events name, what is missing, when spools and clocks were last heard of."""

from __future__ import annotations

import json
import time
from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Column, Double, Text, column, select, table, text, update

revision = "0003"
down_revision = "0002"

spools = table("spools", *(column(name) for name in ("device", "spool", "ranges", "missing", "missing_since", "touched_at")))


def upgrade() -> None:
    """Add columns and indexes; of events that are stored already it is not known whom they name."""
    op.add_column("events", Column("identity", Text, server_default="*"))
    _index("events_identity", "events", ["device", "identity"], "identity IS NOT NULL")
    _index("events_device_kind", "events", ["device", "kind", "at"])
    _index("events_stream_kind", "events", ["stream", "kind", "at"])
    op.add_column("spools", Column("lane", Text, nullable=False, server_default=""))
    op.add_column("spools", Column("missing", BigInteger, nullable=False, server_default="0"))
    op.add_column("spools", Column("missing_since", Double()))
    op.add_column("spools", Column("touched_at", Double()))
    op.add_column("clocks", Column("received_at", Double()))
    now = time.time()
    op.execute(text(f"UPDATE clocks SET received_at = {now!r}"))
    _count_missing(now)
    _index("spools_missing", "spools", ["device"], "missing > 0")
    _index("spools_touched", "spools", ["touched_at"])
    _index("clocks_received_at", "clocks", ["received_at"])


def _index(name: str, of: str, columns: list[str], where: str = "") -> None:
    some: dict[str, Any] = {"sqlite_where": text(where), "postgresql_where": text(where)} if where else {}
    op.create_index(name, of, columns, **some)


def _count_missing(now: float) -> None:
    connection = op.get_bind()
    for device, spool, ranges in connection.execute(select(spools.c.device, spools.c.spool, spools.c.ranges)).all():
        known = json.loads(ranges)
        missing = known[-1][1] - known[0][0] + 1 - sum(high - low + 1 for low, high in known) if known else 0
        values = {"missing": missing, "missing_since": now if missing else None, "touched_at": now}
        connection.execute(update(spools).where(spools.c.device == device, spools.c.spool == spool).values(values))
