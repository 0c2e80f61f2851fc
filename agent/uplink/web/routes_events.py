"""Events: a page of them, as CSV, and as they happen."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from agent.envelopes import COLUMNS, number, row
from agent.http.live import event_stream
from agent.outbox import Outbox
from agent.serving import Problem
from agent.uplink.web.feed import follow
from agent.uplink.web.models import EventPage

CSV_PAGE = 500

Since = Annotated[float | None, Query(allow_inf_nan=False, description="Captured at this Unix time or later, seconds.")]
Until = Annotated[float | None, Query(allow_inf_nan=False, description="Captured before this Unix time, seconds.")]
Stream = Annotated[str | None, Query(description="Only this stream.")]
Kind = Annotated[str | None, Query(description="Only this kind, for example `face`.")]


def events_router(outbox: Outbox, stopping: Callable[[], bool]) -> APIRouter:
    """Routes under /api/1 that read the local history."""
    router = APIRouter(prefix="/api/1", tags=["events"])

    @router.get("/events")
    def events(
        since: Since = None,
        until: Until = None,
        stream: Stream = None,
        kind: Kind = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        cursor: Annotated[str | None, Query(description="`next` of the page before.")] = None,
    ) -> EventPage:
        """Events of this device, newest first, settled ones too."""
        return _page(outbox, since, until, stream, kind, limit, cursor)

    @router.get("/events.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}})
    def events_csv(since: Since = None, until: Until = None, stream: Stream = None, kind: Kind = None) -> Response:
        """The same as comma-separated values (RFC 4180), all pages."""

        headers = {"Content-Disposition": 'attachment; filename="events.csv"'}
        return StreamingResponse(_pages(outbox, since, until, stream, kind), media_type="text/csv; charset=utf-8", headers=headers)

    @router.get("/events/live", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
    async def live(last_event_id: Annotated[str | None, Header()] = None) -> Response:
        """Events as they happen, as Server-Sent Events whose ids are the events' ids. `ready` comes first: from then on none is missed."""
        after = None if last_event_id is None else _after(last_event_id)
        return StreamingResponse(event_stream(follow(outbox, after), _line, stopping), media_type="text/event-stream")

    return router


def _pages(outbox: Outbox, since: float | None, until: float | None, stream: str | None, kind: str | None) -> Iterator[str]:
    """The table, page by page."""
    yield _csv([COLUMNS])
    cursor = None
    while True:
        page = _page(outbox, since, until, stream, kind, CSV_PAGE, cursor)
        yield _csv(row(event) for event in page.events)
        cursor = page.next
        if cursor is None:
            return


def _line(event: dict[str, Any]) -> str:
    return f"id: {event['id']}\ndata: {json.dumps(event)}\n\n"


def _after(event: str) -> int:
    try:
        return _within(number(event))
    except ValueError as error:
        raise Problem(
            422, "The last event's id is not one of ours", "send the id of an event unchanged as Last-Event-ID, or none"
        ) from error


def _page(
    outbox: Outbox, since: float | None, until: float | None, stream: str | None, kind: str | None, limit: int, cursor: str | None
) -> EventPage:
    """The cursor is moment and number of the last event shown, so that events which share a moment are neither lost nor shown twice."""
    before = _moment(cursor) if cursor is not None else None
    found = outbox.history(since=since, until=until, stream=stream, kind=kind, limit=limit + 1, before=before)
    shown = found[:limit]
    more = len(found) > limit
    return EventPage(events=shown, next=f"{shown[-1]['captured_at']!r}|{number(shown[-1]['id'])}" if more else None)


def _moment(cursor: str) -> tuple[float, int]:
    moment, _, last = cursor.partition("|")
    try:
        return float(moment), _within(int(last))
    except ValueError as error:
        raise Problem(422, "The cursor is not one of ours", "give `next` of the page before, unchanged") from error


def _within(seq: int) -> int:
    """As it is, where it can be the number of an event. Raises ValueError."""
    if not 0 < seq < 1 << 63:
        raise ValueError(seq)
    return seq


def _csv(rows: Any) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
