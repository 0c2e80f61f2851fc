"""What is known of devices, and what they saw."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Iterator
from datetime import timezone
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, FiniteFloat
from starlette.responses import Response, StreamingResponse

from agent.clock import date_of
from agent.envelopes import FIELDS, cell
from agent.serving import Problem
from fleet import courier
from fleet.api.access import needs
from fleet.api.context import Context
from fleet.api.models import Device, Devices, Events, Fleet, Losses, Series
from fleet.store import pictures, queries

CSV_PAGE = 1000
COLUMNS = ("time", "device", "stream", "kind", "id", "model", *FIELDS)
DAY = 86400.0

Moment = Annotated[FiniteFloat | None, Query(description="Unix time, seconds.")]


class Wanted(BaseModel):
    """Which events."""

    device: str | None = None
    site: str | None = None
    stream: str | None = None
    kind: str | None = None
    subject: str | None = None
    since: FiniteFloat | None = None
    until: FiniteFloat | None = None


def _wanted(
    device: str | None = None,
    site: str | None = None,
    stream: str | None = None,
    kind: str | None = None,
    subject: Annotated[str | None, Query(description="A name, an identity, a pseudonym, a label or a decision.")] = None,
    since: Moment = None,
    until: Moment = None,
) -> Wanted:
    return Wanted(device=device, site=site, stream=stream, kind=kind, subject=subject, since=since, until=until)


Filters = Annotated[Wanted, Depends(_wanted)]


def devices_router(context: Context) -> APIRouter:
    """Devices."""
    router = APIRouter(tags=["devices"])

    @router.get("/fleet", response_model=Fleet, **needs("viewer"))
    def fleet() -> Any:
        """All devices in a few numbers."""
        with context.engine.connect() as connection:
            return queries.overview(connection, time.time())

    @router.get("/devices", response_model=Devices, **needs("viewer"))
    def devices(
        search: Annotated[str, Query(max_length=200)] = "",
        state: str | None = None,
        site: str | None = None,
        group: str | None = None,
        alert: Annotated[str | None, Query(description="A rule that fires, or `any`.")] = None,
        sort: Annotated[str, Query(description=f"One of {', '.join(queries.SORTED)}; with `-` before it falling.")] = "device",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[int, Query(ge=0, lt=1 << 31, description="`next` of the page before.")] = 0,
    ) -> Any:
        """A page of devices."""
        with context.engine.connect() as connection:
            wanted = queries.DeviceFilter(search, state, site, group, alert)
            found, total = queries.device_list(connection, time.time(), wanted, sort=sort, limit=limit, after=after)
        shown = after + len(found)
        return {"devices": found, "total": total, "next": str(shown) if shown < total else None}

    @router.get("/devices/{device}", response_model=Device, **needs("viewer"))
    def one(device: str) -> Any:
        """All that is known of a device."""
        with context.engine.connect() as connection:
            return queries.device(connection, time.time(), device)

    @router.get("/devices/{device}/telemetry", response_model=Series, **needs("viewer"))
    def telemetry(
        device: str, metric: Annotated[str, Query(max_length=200)], since: Moment = None, until: Moment = None,
        points: Annotated[int, Query(ge=1, le=2000)] = 240,
    ) -> Any:  # fmt: skip
        """A metric over time; without `since` of the last day."""
        end = time.time() if until is None else until
        begin = end - DAY if since is None else since
        if not 0 < end - begin <= 3660 * DAY:
            raise Problem(422, "These times are not valid", "`since` must be before `until`, by ten years at most")
        with context.engine.connect() as connection:
            courier.known(connection, device)
            return queries.telemetry(connection, device, metric, begin, end, points)

    @router.get("/devices/{device}/losses", response_model=Losses, **needs("viewer"))
    def losses(device: str) -> Any:
        """What a device has declared as lost, newest first."""
        with context.engine.connect() as connection:
            return queries.losses(connection, device)

    return router


def events_router(context: Context) -> APIRouter:
    """Events."""
    router = APIRouter(tags=["events"])

    @router.get("/events", response_model=Events, **needs("viewer"))
    def events(
        wanted: Filters,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        before: Annotated[str | None, Query(description="`next` of the page before.")] = None,
    ) -> Any:
        """Events of all devices, newest first, by their effective time."""
        with context.engine.connect() as connection:
            found = queries.event_list(connection, **wanted.model_dump(), limit=limit + 1, before=_before(before))
            found = pictures.marked(connection, found)
        return {"events": queries.in_order(found[:limit]), "next": _cursor(found[limit - 1]) if len(found) > limit else None}

    @router.get("/events.csv", response_class=Response, **csv_answer())
    def events_csv(wanted: Filters) -> Response:
        """The same as comma-separated values (RFC 4180), all pages."""
        headers = {"Content-Disposition": 'attachment; filename="events.csv"'}
        return StreamingResponse(_pages(context, wanted), media_type="text/csv; charset=utf-8", headers=headers)

    return router


def csv_answer() -> dict[str, Any]:
    """What a route is declared with that answers with CSV."""
    declared = needs("viewer")
    return {**declared, "responses": {**declared["responses"], 200: {"content": {"text/csv": {}}}}}


def _pages(context: Context, wanted: Wanted) -> Iterator[str]:
    yield _csv([COLUMNS])
    before = None
    while True:
        with context.engine.connect() as connection:
            page = queries.event_list(connection, **wanted.model_dump(), limit=CSV_PAGE, before=before)
        yield _csv([_row(event) for event in queries.in_order(page)])
        if len(page) < CSV_PAGE:
            return
        before = (page[-1]["at"], page[-1]["number"])


def _row(event: dict[str, Any]) -> list[Any]:
    moment = date_of(event["at"], timezone.utc).isoformat(timespec="milliseconds")
    data = event["data"] if isinstance(event["data"], dict) else {}
    return [cell(value) for value in (moment, *(event[name] for name in COLUMNS[1:6]), *(data.get(name) for name in FIELDS))]


def _csv(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _cursor(event: dict[str, Any]) -> str:
    return f"{event['at']!r}|{event['number']}"


def _before(cursor: str | None) -> tuple[float, int] | None:
    if cursor is None:
        return None
    moment, _, number = cursor.partition("|")
    try:
        if not (0 < int(number) < 1 << 63 and math.isfinite(float(moment))):
            raise ValueError(cursor)
        return float(moment), int(number)
    except ValueError as error:
        raise Problem(422, "The cursor is not one of ours", "give `next` of the page before, unchanged") from error
