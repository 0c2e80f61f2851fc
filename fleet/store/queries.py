"""What the API reads: devices, events, telemetry, losses. Lists come in pages, and each question goes through one index."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, String, and_, case, cast, func, or_, select, text

from agent import wire
from agent.errors import UnknownError, UsageError
from fleet import maintenance
from fleet.intervals import Intervals
from fleet.store.tables import alerts, devices, events, records, rollups, samples, spools

MISSING, FIRING = text("missing > 0"), text("alerts.state = 'firing'")
"""In the very words of the indexes, or else SQLite does not take them."""
LEASE_S = 90.0
"""Of a device of which no birth has come."""
OFFLINE_LEASES = 2.0
MOST_LOSSES = 500
MOST_GAPS = 100
DEVICE_COLUMNS = (
    "device", "seen_at", "status_at", "agent", "models", "engines", "boot_id", "site", "group", "note", "figures", "telemetry_at",
    "losses", "desired_revision", "reported_revision",
)  # fmt: skip
WORST_FIRST = {"offline": 1, "stale": 2, "online": 3, "stopped": 4, "": 5}
SORTED_BY_FIGURE = ("temperature_c", "outbox_depth")
SORTED = ("device", "state", "seen_at", "agent", "losses", "alerts", *SORTED_BY_FIGURE)


def presence(now: float) -> ColumnElement[str]:
    """How a device is: what it said last, `stale` once it is silent for longer than its lease, `offline` after two of them."""
    silent = now - devices.c.seen_at
    lease = func.coalesce(devices.c.lease_s, LEASE_S)
    return case(
        (devices.c.state.in_(("offline", "stopped")), devices.c.state),
        (devices.c.seen_at.is_(None), ""),
        (silent > OFFLINE_LEASES * lease, "offline"),
        (silent > lease, "stale"),
        else_="online",
    )


def firing() -> ColumnElement[int]:
    """How many alerts of a device fire."""
    count = select(func.count()).select_from(alerts).where(alerts.c.device == devices.c.device, FIRING)
    return count.correlate(devices).scalar_subquery()


@dataclass(frozen=True)
class DeviceFilter:
    """Which devices. `alert`: a rule that fires, or `any`."""

    search: str = ""
    state: str | None = None
    site: str | None = None
    group: str | None = None
    alert: str | None = None


def device_list(
    connection: Connection, now: float, wanted: DeviceFilter, *, sort: str = "device", limit: int = 100, after: int = 0
) -> tuple[list[dict[str, Any]], int]:
    """A page of devices, `after` so many, and how many there are in all. `sort`: one of SORTED, falling with a `-` before it, and
    what has no value last. Raises UsageError."""
    where = _device_filters(now, wanted)
    key = sort.removeprefix("-")
    if key not in SORTED:
        raise UsageError(f"devices are sorted by {', '.join(SORTED)}, not by {key!r}")
    order: Any = devices.c.figures[key].as_float() if key in SORTED_BY_FIGURE else devices.c.get(key)
    if key in ("state", "alerts"):
        order = case(WORST_FIRST, value=presence(now), else_=0) if key == "state" else firing()
    falling = sort.startswith("-")
    query = _device_rows(now).where(*where).order_by(order.is_(None), order.desc() if falling else order, devices.c.device)
    found = [dict(row._mapping) for row in connection.execute(query.limit(limit).offset(after))]
    return found, connection.execute(select(func.count()).select_from(devices).where(*where)).scalar_one()


def device(connection: Connection, now: float, name: str) -> dict[str, Any]:
    """All that is known of one. Raises UnknownError."""
    more = ("telemetry", "reported", "reported_at", "desired_at", "desired_by")
    row = connection.execute(_device_rows(now).add_columns(*(devices.c[column] for column in more)).where(devices.c.device == name)).first()
    if row is None:
        raise UnknownError(f"there is no device {name}")
    found = dict(row._mapping)
    return {**found, "reported": json.loads(found["reported"]) if found["reported"] else None}


def overview(connection: Connection, now: float) -> dict[str, Any]:
    """The fleet in a few numbers."""
    state = presence(now).label("now")
    states = {row[0]: row[1] for row in connection.execute(select(state, func.count()).select_from(devices).group_by(state))}
    alerting = connection.execute(select(func.count(alerts.c.device.distinct())).where(alerts.c.state == "firing")).scalar_one()
    unseen = (alerts.c.state == "firing", alerts.c.acknowledged_by == "", alerts.c.device.not_in(maintenance.closed(now)))
    fresh = connection.execute(select(func.count()).select_from(alerts).where(*unseen)).scalar_one()
    words = {
        name: list(connection.execute(select(devices.c[name]).where(devices.c[name] != "").distinct().order_by(devices.c[name])).scalars())
        for name in ("site", "group")
    }
    counts = {"total": sum(states.values()), "alerting": alerting, "unacknowledged": fresh}
    return {**counts, "states": states, "sites": words["site"], "groups": words["group"]}


def event_list(
    connection: Connection,
    *,
    device: str | None = None,
    site: str | None = None,
    stream: str | None = None,
    kind: str | None = None,
    subject: str | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int = 50,
    before: tuple[float, int] | None = None,
) -> list[dict[str, Any]]:
    """Events, newest first; `before` is time and number of the last one of the page before."""
    given = {"device": device, "subject": subject, "stream": stream, "kind": kind}
    wanted = {name: value for name, value in given.items() if value is not None}
    query = select(events).order_by(events.c.at.desc(), events.c.id.desc()).limit(limit)
    times = []
    if since is not None:
        times.append(events.c.at >= since)
    if until is not None:
        times.append(events.c.at < until)
    if before is not None:
        at, number = before
        times.append(and_(events.c.at <= at, or_(events.c.at < at, events.c.id < number)))
    if site is not None and wanted.keys() <= {"kind"}:
        found = _of_site(connection, query.where(*times, *_matching(wanted, "device")), site, [*times, *_matching(wanted, "device")], limit)
    else:
        query = query.where(*times, *_matching(wanted, next(iter(wanted), "")))
        if site is not None:
            query = query.where(_plain(events.c.device).in_(select(devices.c.device).where(devices.c.site == site)))
        found = connection.execute(query).all()
    return [as_event(row._mapping) for row in found]


def _matching(wanted: Mapping[str, str], first: str) -> list[ColumnElement[bool]]:
    """Conditions such that the index goes by `first`, and by the kind where it has that, too; the others are looked at entry by entry of
    that index, or else SQLite may take the wrong one."""
    through = {first, "kind"} if first in ("device", "stream") else {first}
    return [(events.c[name] if name in through else _plain(events.c[name])) == value for name, value in wanted.items()]


def _of_site(connection: Connection, query: Select[Any], site: str, where: Sequence[ColumnElement[bool]], limit: int) -> Sequence[Row[Any]]:
    """The newest of a site's devices together. Only devices are asked whose own newest may be among them, and those are few at most."""
    newest = select(func.max(events.c.at)).where(events.c.device == devices.c.device, *where).correlate(devices).scalar_subquery()
    there = connection.execute(select(newest.label("newest"), devices.c.device).where(devices.c.site == site)).all()
    found: list[Row[Any]] = []
    for at, device in sorted(((at, device) for at, device in there if at is not None), reverse=True):
        if len(found) == limit and found[-1].at > at:
            break
        found += connection.execute(query.where(events.c.device == device))
        found.sort(key=lambda row: (row.at, row.id), reverse=True)
        del found[limit:]
    return found


def newer_events(connection: Connection, after: int, limit: int) -> list[dict[str, Any]]:
    """Events by number, above `after`."""
    return [
        as_event(row._mapping) for row in connection.execute(select(events).where(events.c.id > after).order_by(events.c.id).limit(limit))
    ]


def events_numbered(connection: Connection, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """Those of these numbers that are there, in order."""
    return [as_event(row._mapping) for row in connection.execute(select(events).where(events.c.id.in_(numbers)).order_by(events.c.id))]


def in_order(page: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of a page, newest first; those of one moment as their device has numbered them, in whatever order they came."""
    return sorted(page, key=lambda event: (event["at"], event["device"], int(event["id"].rpartition("/")[2])), reverse=True)


def as_event(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of `events` as others get it; `number` is its place in the store."""
    names = ("device", "stream", "kind", "type", "subject", "at", "captured_at", "received_at", "clock", "model")
    data = json.loads(row["payload"]).get("data")
    return {"id": f"{row['device']}/{row['spool']}/{row['seq']}", "number": row["id"], **{name: row[name] for name in names}, "data": data}


def telemetry(connection: Connection, device: str, metric: str, since: float, until: float, points: int) -> dict[str, Any]:
    """A metric over time in about so many points at most: `step` seconds apart (0: as they came), each time, mean, lowest, highest."""
    wish = (until - since) / points
    if wish < 60:
        found = [(at, value, value, value) for at, value in _raw(connection, device, metric, since, until, unrolled=False)]
        if len(found) <= points:
            return {"metric": metric, "step": 0.0, "points": found}
    base = 60 if wish <= 3600 else 3600
    step = base * math.ceil(wish / base)
    where = (rollups.c.device == device, rollups.c.metric == metric, rollups.c.step == base)
    columns = (rollups.c.bucket, rollups.c.n, rollups.c.low, rollups.c.high, rollups.c.sum)
    rows = [tuple(row) for row in connection.execute(select(*columns).where(*where, rollups.c.bucket.between(since - base, until)))]
    rows += [(at, 1, value, value, value) for at, value in _raw(connection, device, metric, since, until, unrolled=True)]
    merged: dict[float, list[Any]] = {}
    for at, *figures in rows:
        merged.setdefault(at // step * step, []).append(figures)
    return {"metric": metric, "step": float(step), "points": [_point(bucket, merged[bucket]) for bucket in sorted(merged)]}


def losses(connection: Connection, name: str) -> dict[str, Any]:
    """What a device has declared as lost, newest first, and which numbers are neither here nor declared. Raises UnknownError."""
    total = connection.execute(select(devices.c.losses).where(devices.c.device == name)).scalar()
    if total is None:
        raise UnknownError(f"there is no device {name}")
    where = (records.c.device == name, records.c.lane == "loss")
    newest = select(records.c.payload).where(*where).order_by(records.c.at.desc()).limit(MOST_LOSSES)
    declared = [loss for payload in connection.execute(newest).scalars() if (loss := loss_of(payload))]
    gaps = select(spools.c.spool, spools.c.lane, spools.c.missing, spools.c.missing_since, spools.c.ranges, spools.c.ends)
    gaps = gaps.where(spools.c.device == name, MISSING).order_by(spools.c.missing_since).limit(MOST_LOSSES)
    missing = [_missing(row) for row in connection.execute(gaps)]
    return {
        "losses": [loss.model_dump() for loss in declared],
        "total": total,
        "missing": missing,
        "missing_total": missing_of(connection, name).get(name, 0),
        "begins": _begins(connection, name),
    }


def _begins(connection: Connection, device: str) -> dict[str, int]:
    """By lane the lowest number that is known, where it is not the first: a device counts from 1, from one spool to the next."""
    known = connection.execute(select(spools.c.lane, spools.c.ranges).where(spools.c.device == device, spools.c.lane != ""))
    lowest: dict[str, int] = {}
    for lane, ranges in known:
        for low, _ in json.loads(ranges)[:1]:
            lowest[lane] = min(low, lowest.get(lane, low))
    return {lane: low for lane, low in sorted(lowest.items()) if low > 1}


def loss_of(payload: bytes) -> wire.Loss | None:
    """A stored loss record; None for one that an earlier version has taken and this one would not."""
    try:
        return wire.Loss.model_validate(json.loads(payload)["data"])
    except ValueError:
        return None


def missing_of(connection: Connection, device: str | None = None) -> dict[str, int]:
    """By device, how many numbers are neither stored nor declared as lost, though higher ones of their lane are: where there are any."""
    query = select(spools.c.device, func.sum(spools.c.missing)).where(MISSING).group_by(spools.c.device)
    found = connection.execute(query if device is None else query.where(spools.c.device == device))
    return {name: int(count) for name, count in found}


def _missing(row: Any) -> dict[str, Any]:
    known = Intervals(json.loads(row.ranges))
    ranges = list(islice(known.gaps(known.lowest, max(known.highest, row.ends or 0)), MOST_GAPS))
    return {"spool": row.spool, "lane": row.lane, "count": row.missing, "since": row.missing_since, "ranges": ranges}


def _device_rows(now: float) -> Select[Any]:
    more = (presence(now).label("state"), firing().label("alerts"), maintenance.until(now).label("maintenance"))
    return select(*(devices.c[name] for name in DEVICE_COLUMNS), *more)


def _device_filters(now: float, wanted: DeviceFilter) -> Sequence[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if wanted.search:
        words = (
            *(devices.c[name] for name in ("device", "site", "group", "note", "agent")),
            *(cast(devices.c[name], String) for name in ("models", "engines")),
        )
        found.append(or_(*(word.icontains(wanted.search, autoescape=True) for word in words)))
    for value, column in ((wanted.state, presence(now)), (wanted.site, devices.c.site), (wanted.group, devices.c.group)):
        if value is not None:
            found.append(column == value)
    if wanted.alert is not None:
        of_rule = alerts.c.rule == wanted.alert if wanted.alert != "any" else alerts.c.rule.is_not(None)
        found.append(devices.c.device.in_(select(alerts.c.device).where(alerts.c.state == "firing", of_rule)))
    return found


def _plain(column: ColumnElement[str]) -> ColumnElement[str]:
    """The same value, which no index is of."""
    return func.coalesce(column, "")


def _raw(connection: Connection, device: str, metric: str, since: float, until: float, *, unrolled: bool) -> list[tuple[float, float]]:
    wanted = and_(samples.c.device == device, samples.c.at >= since, samples.c.at < until)
    if unrolled:
        wanted = and_(wanted, samples.c.rolled.is_(False))
    found = connection.execute(select(samples.c.at, samples.c.figures).where(wanted).order_by(samples.c.at))
    return [(at, figures[metric]) for at, figures in found if metric in figures]


def _point(bucket: float, figures: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    count = sum(n for n, _, _, _ in figures)
    mean = sum(total for _, _, _, total in figures) / count
    return bucket, mean, min(low for _, low, _, _ in figures), max(high for _, _, high, _ in figures)
