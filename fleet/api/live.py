"""What happens, as Server-Sent Events. The store is asked once for all listeners, and not at all while nobody listens."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection, Engine, func, or_, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from agent.http.live import event_stream
from fleet.api.access import needs
from fleet.api.context import Context
from fleet.store import pictures, queries
from fleet.store.tables import alerts, devices, events

log = logging.getLogger(__name__)

POLL_S = 0.3
QUIET_S = 2.0
PAGE = 500
BACK = 5000
"""Numbers of events before the newest that may still come: of two hubs that store at once, the later number may be there first."""
ALERTS_BACK = 100
"""The same of alerts."""
BACK_S = 60.0
"""For so long; a transaction that has not ended by then was undone."""
WIDELY_EVERY_S = 5.0
"""So often devices and alerts are looked at over `BACK_S`: what is written of them bears a time before its commit."""
STORED_WITHIN_S = 5.0
"""A picture may be stored so long after it has come."""
WAITING = 10_000
"""Messages for a listener that does not take them; beyond these it is cut off, and comes back."""

Message = tuple[str, dict[str, Any]]
Version = tuple[Any, ...]


class News:
    """What is new in the store since the last look. Made and used in threads, one at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._looked = time.time()
        self._widely = time.monotonic()
        self._pictured: set[str] = set()
        self.more = False
        """Whether there is more to be read at once."""
        with engine.connect() as connection:
            self._newest = connection.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one()
            self._alert = connection.execute(select(func.coalesce(func.max(alerts.c.id), 0))).scalar_one()
            there = connection.execute(select(events.c.id).where(events.c.id > self._newest - BACK)).scalars()
            self._missing = self._absent(max(1, self._newest - BACK + 1), self._newest, set(there))
            since = self._looked - BACK_S
            self._alerts = {one["id"]: _version(one) for one in self._alerting(connection, since)}
            self._devices = {one["device"]: _version(one) for one in _heard(connection, since, self._looked)}

    def look(self) -> list[Message]:
        """Kind and content of each: `event`, `alert`, `device`, `picture`."""
        now, moment = time.time(), time.monotonic()
        since = self._looked - POLL_S
        if moment - self._widely > WIDELY_EVERY_S:
            self._widely, since = moment, since - BACK_S
        with self._engine.connect() as connection:
            self._follow_back(connection)
            late = queries.events_numbered(connection, list(self._missing)) if self._missing else []
            found = queries.newer_events(connection, self._newest, PAGE)
            alerting = _changed(self._alerts, "id", self._alerting(connection, since))
            told = _changed(self._devices, "device", _heard(connection, since, now))
            shown = pictures.newer(connection, now - STORED_WITHIN_S)
        fresh = [one for one in shown if one["event"] not in self._pictured]
        self._pictured = {one["event"] for one in shown}
        self._note([event["number"] for event in late], [event["number"] for event in found])
        self._alert = max([self._alert, *(alert["id"] for alert in alerting)])
        self._looked = now
        kinds = {"event": (*late, *found), "alert": alerting, "device": told, "picture": fresh}
        return [(kind, one) for kind, several in kinds.items() for one in several]

    def _follow_back(self, connection: Connection) -> None:
        """SQLite gives a number again when the row that had it, the newest, is forgotten."""
        newest = connection.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one()
        if newest < self._newest:
            old = select(func.coalesce(func.max(events.c.id), 0)).where(events.c.received_at < self._looked - POLL_S)
            self._newest = connection.execute(old).scalar_one()
            self._missing = {}
        self._alert = min(self._alert, connection.execute(select(func.coalesce(func.max(alerts.c.id), 0))).scalar_one())

    def _alerting(self, connection: Connection, since: float) -> list[dict[str, Any]]:
        """Alerts that began or ended."""
        turned = or_(alerts.c.id > self._alert - ALERTS_BACK, alerts.c.since >= since, alerts.c.until >= since)
        return [dict(row._mapping) for row in connection.execute(select(alerts).where(turned).order_by(alerts.c.id))]

    def _note(self, late: list[int], found: list[int]) -> None:
        """Which numbers may still come."""
        moment = time.monotonic()
        here = set(late)
        self._missing = {number: until for number, until in self._missing.items() if until > moment and number not in here}
        if found:
            self._missing |= self._absent(max(self._newest + 1, found[-1] - BACK), found[-1], set(found))
            self._newest = found[-1]
        self.more = len(found) == PAGE

    @staticmethod
    def _absent(low: int, high: int, there: set[int]) -> dict[int, float]:
        until = time.monotonic() + BACK_S
        return {number: until for number in range(low, high) if number not in there}


def _heard(connection: Connection, since: float, now: float) -> list[dict[str, Any]]:
    """Devices that spoke, of which something was said, or whose leases ended."""
    lease = func.coalesce(devices.c.lease_s, queries.LEASE_S)
    ended = [(devices.c.seen_at + leases * lease).between(since, now) for leases in (1.0, queries.OFFLINE_LEASES)]
    columns = (devices.c.device, devices.c.seen_at, queries.presence(now).label("state"))
    heard = or_(devices.c.seen_at >= since, devices.c.status_at >= since, *ended)
    return [dict(row._mapping) for row in connection.execute(select(*columns).where(heard))]


def _changed(known: dict[Any, Version], key: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that are not as they were, which are known from now on."""
    fresh = [one for one in found if known.get(one[key]) != _version(one)]
    known.update((one[key], _version(one)) for one in fresh)
    return fresh


def _version(one: dict[str, Any]) -> Version:
    return tuple(one.get(name) for name in ("device", "rule", "since", "state", "seen_at", "until"))


class Live:
    """Hands out what is new to all listeners."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._listeners: set[asyncio.Queue[Message]] = set()
        self._task: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()

    async def listen(self, device: str | None) -> AsyncGenerator[Message | None, None]:
        """Messages; a None first, from where on none is missed, and whenever there was nothing for a while. Ends for who is too slow."""
        queue: asyncio.Queue[Message] = asyncio.Queue(WAITING)
        self._listeners.add(queue)
        try:
            if self._task is None or self._task.done():
                self._begun = asyncio.Event()
                self._task = asyncio.create_task(self._follow(self._begun))
            await self._begun.wait()
            yield None
            while queue in self._listeners:
                try:
                    message = await asyncio.wait_for(queue.get(), QUIET_S)
                except asyncio.TimeoutError:
                    yield None
                    continue
                if device is None or message[1]["device"] == device:
                    yield message
        finally:
            self._listeners.discard(queue)

    async def _follow(self, begun: asyncio.Event) -> None:
        news: News | None = None
        trouble = ""
        while self._listeners:
            try:
                if news is None:
                    news = await run_in_threadpool(News, self._engine)
                begun.set()
                self._hand_out(await run_in_threadpool(news.look))
                trouble = ""
            except SQLAlchemyError as error:
                if not trouble:
                    log.error("what happens cannot be read; this is tried again: %s", error)
                trouble = str(error)
            await asyncio.sleep(0 if news and news.more and not trouble else POLL_S)

    def _hand_out(self, messages: list[Message]) -> None:
        for queue in list(self._listeners):
            if queue.qsize() + len(messages) > WAITING:
                self._listeners.discard(queue)
            else:
                for message in messages:
                    queue.put_nowait(message)


def live_router(context: Context, stopping: Callable[[], bool]) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["live"])
    feed = Live(context.engine)
    declared = needs("viewer")
    declared["responses"] = {**declared["responses"], 200: {"content": {"text/event-stream": {}}}}

    @router.get("/live", response_class=Response, **declared)
    async def live(device: str | None = None) -> Response:
        """What happens, as Server-Sent Events: `event`, `device` (it was heard, or its lease has ended), `alert` (it began or ended),
        `picture` (of an event). `ready` comes first: from then on nothing is missed."""
        return StreamingResponse(event_stream(feed.listen(device), _line, stopping), media_type="text/event-stream")

    return router


def _line(message: Message) -> str:
    return f"event: {message[0]}\ndata: {json.dumps(message[1])}\n\n"
