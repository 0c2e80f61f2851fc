"""Pictures that devices were allowed to send: of faces, with their events, and snapshots that somebody asked for. They are BLOBs beside the
events, so that one transaction forgets both."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, delete, func, select

from agent.errors import AlmenaError, UnknownError
from fleet.intervals import Intervals
from fleet.store import device_rows, sql
from fleet.store.tables import erased_visits, events, pictures, spools

MOST_OF_EVENTS, MOST_SNAPSHOTS = 5000, 20
"""Of each device; beyond them the oldest goes."""
SNAPSHOT = 0
"""In place of an event's number, which begins with 1."""


class TooEarlyError(AlmenaError):
    """The event is not stored yet."""


class TooLateError(AlmenaError):
    """The event was lost, is too old to be kept, or told of somebody who is erased."""


def keep(connection: Connection, device: str, spool: str, seq: int, jpeg: bytes, now: float) -> None:
    """The picture of an event. Raises TooEarlyError, TooLateError."""
    device_rows.hold(connection, device)  # an erasure that is under way would not see it
    own = (events.c.device == device, events.c.spool == spool, events.c.seq == seq)
    found = connection.execute(select(events.c.stream, events.c.at, events.c.payload).where(*own)).first()
    if found is None:
        known = connection.execute(select(spools.c.ranges).where(spools.c.device == device, spools.c.spool == spool)).scalar()
        if known and seq in Intervals(json.loads(known)):
            raise TooLateError("the event is not kept here any more")
        raise TooEarlyError("the event is not here yet")
    data = json.loads(found.payload)["data"]
    track = track_of(data)
    if (data.get("decision") == "known" and data.get("identity") is None) or _is_erased(connection, device, track):
        raise TooLateError("the event is of a visit of somebody who is erased")
    _keep(connection, device, spool, seq, found.stream, track, found.at, jpeg, now)
    _forget_oldest(connection, device, pictures.c.seq > SNAPSHOT, MOST_OF_EVENTS)


def keep_snapshot(connection: Connection, device: str, name: str, stream: str, at: float, jpeg: bytes, now: float) -> None:
    """A picture of a stream, taken at `at`, by the device's clock, but not later than now."""
    _keep(connection, device, name, SNAPSHOT, stream, "", min(at, now), jpeg, now)
    _forget_oldest(connection, device, pictures.c.seq == SNAPSHOT, MOST_SNAPSHOTS)


def jpeg_of(connection: Connection, device: str, spool: str, seq: int) -> bytes:
    """Raises UnknownError."""
    own = (pictures.c.device == device, pictures.c.spool == spool, pictures.c.seq == seq)
    found = connection.execute(select(pictures.c.jpeg).where(*own)).scalar()
    if found is None:
        raise UnknownError("there is no such picture, or it is not kept any more")
    return bytes(found)


def marked(connection: Connection, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same events, each with `picture`: whether there is one."""
    keys = {(event["device"], spool, int(seq)): event for event in found for _, spool, seq in (event["id"].split("/"),)}
    columns = (pictures.c.device, pictures.c.spool, pictures.c.seq)
    there = {tuple(row) for row in sql.where(connection, select(*columns), columns, list(keys))}
    return [{**event, "picture": key in there} for key, event in keys.items()]


def newer(connection: Connection, since: float) -> list[dict[str, Any]]:
    """Device and id of events whose pictures came since then."""
    columns = (pictures.c.device, pictures.c.spool, pictures.c.seq)
    wanted = select(*columns).where(pictures.c.received_at >= since, pictures.c.seq > SNAPSHOT)
    return [{"device": device, "event": f"{device}/{spool}/{seq}"} for device, spool, seq in connection.execute(wanted)]


def snapshots(connection: Connection, device: str) -> list[dict[str, Any]]:
    """Of a device, newest first."""
    columns = (pictures.c.spool.label("id"), pictures.c.stream, pictures.c.at, pictures.c.size)
    wanted = select(*columns).where(pictures.c.device == device, pictures.c.seq == SNAPSHOT).order_by(pictures.c.at.desc())
    return [dict(row._mapping) for row in connection.execute(wanted)]


def track_of(data: dict[str, Any]) -> str:
    """The visit that an event tells of, "" for none."""
    track = data.get("track")
    return track if isinstance(track, str) else ""


def forget_visits(connection: Connection, device: str, tracks: Collection[str], now: float) -> None:
    """All pictures of somebody's visits, also those from before it was known who it is, and those that are still to come."""
    rows = [{"device": device, "track": track, "at": now} for track in sorted(tracks) if track]
    sql.run(connection, sql.insert(connection, erased_visits).on_conflict_do_nothing(), rows)
    own = (pictures.c.device == device, pictures.c.track != "")
    connection.execute(delete(pictures).where(*own, pictures.c.track.in_(tracks)))


def _is_erased(connection: Connection, device: str, track: str) -> bool:
    found = select(erased_visits.c.at).where(erased_visits.c.device == device, erased_visits.c.track == track)
    return connection.execute(found).first() is not None


def _keep(connection: Connection, device: str, spool: str, seq: int, stream: str, track: str, at: float, jpeg: bytes, now: float) -> None:
    values = {"stream": stream, "track": track, "at": at, "received_at": now, "size": len(jpeg), "jpeg": jpeg}
    statement = sql.insert(connection, pictures).values(device=device, spool=spool, seq=seq, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["device", "spool", "seq"], set_=values))


def _forget_oldest(connection: Connection, device: str, which: Any, most: int) -> None:
    own = (pictures.c.device == device, which)
    more = connection.execute(select(func.count()).select_from(pictures).where(*own)).scalar_one() - most
    if more > 0:
        key = list(pictures.primary_key)
        oldest = select(*key).where(*own).order_by(pictures.c.received_at).limit(more)
        connection.execute(delete(pictures).where(sql.among(key, oldest)))
