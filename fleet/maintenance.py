"""Windows of maintenance: of a device, a site or a group. Alerts begin and end meanwhile, and nobody is told before the window is over."""

from __future__ import annotations

import time
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, or_, select

from agent.errors import UnknownError, UsageError
from fleet import journal
from fleet.store.tables import devices, maintenance

Kind = Literal["device", "site", "group"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LONGEST_S = 30 * 86400.0
KEPT_S = 7 * 86400.0
"""After its end."""


def until(now: float) -> ColumnElement[float | None]:
    """When the maintenance of a device ends that it is in; null where it is in none."""
    last = select(func.max(maintenance.c.ends)).where(_open(now), _covers())
    return last.correlate(devices).scalar_subquery()


def closed(now: float) -> Any:
    """The devices that are in maintenance, as a subquery of names."""
    return select(devices.c.device).join_from(maintenance, devices, _covers()).where(_open(now))


def windows(connection: Connection, now: float) -> list[dict[str, Any]]:
    """Those that are open or still to come, the first to end first."""
    wanted = select(maintenance).where(maintenance.c.ends > now).order_by(maintenance.c.ends, maintenance.c.id)
    return [dict(row._mapping) for row in connection.execute(wanted)]


def begin(connection: Connection, by: str, kind: Kind, name: str, begins: float | None, ends: float, reason: str) -> int:
    """A new window; its number. Raises UnknownError for a device, site or group that is not there, UsageError for wrong times."""
    now = time.time()
    start = now if begins is None else begins
    if not now < ends <= now + LONGEST_S or start >= ends:
        raise UsageError(f"maintenance ends after it begins, and within {LONGEST_S / 86400:g} days")
    if connection.execute(select(devices.c.device).where(devices.c[kind] == name).limit(1)).first() is None:
        raise UnknownError(f"there is no {kind} {name}")
    connection.execute(delete(maintenance).where(maintenance.c.ends < now - KEPT_S))
    row = {"kind": kind, "name": name, "begins": start, "ends": ends, "reason": reason, "by": by}
    made = connection.execute(insert(maintenance).values(row).returning(maintenance.c.id)).scalar_one()
    journal.note(connection, by, "maintenance begin", name, {"id": made, "kind": kind, "ends": ends, "reason": reason}, now)
    return int(made)


def end(connection: Connection, by: str, number: int) -> None:
    """End a window now, or call it off. Raises UnknownError."""
    row = connection.execute(delete(maintenance).where(maintenance.c.id == number).returning(maintenance.c.name)).first()
    if row is None:
        raise UnknownError(f"there is no maintenance {number}")
    journal.note(connection, by, "maintenance end", row.name, {"id": number})


def _open(now: float) -> ColumnElement[bool]:
    return and_(maintenance.c.begins <= now, maintenance.c.ends > now)


def _covers() -> ColumnElement[bool]:
    return or_(*(and_(maintenance.c.kind == kind, maintenance.c.name == devices.c[kind]) for kind in KINDS))
