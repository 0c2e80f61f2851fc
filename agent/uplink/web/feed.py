"""Events as they happen. One task polls the outbox while anybody listens, and nothing runs otherwise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool

from agent.uplink.web.context import History

log = logging.getLogger(__name__)

POLL_S = 0.25
BATCH = 200
QUEUE = 500


class EventFeed:
    """Hands each new event to every listener. Belongs to one event loop."""

    def __init__(self, outbox: History) -> None:
        self._outbox = outbox
        self._listeners: set[asyncio.Queue[dict[str, Any]]] = set()
        self._task: asyncio.Task[None] | None = None

    async def listen(self, after: str | None = None) -> AsyncIterator[dict[str, Any] | None]:
        """Events after the one with id `after` (only new ones without it), oldest first; None once at the start, from where on
        none is missed, and then whenever there was nothing for a second.

        Ends when events were missed, because the listener is slow or too many came at once; it then begins again.
        """
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(QUEUE)
        self._listeners.add(queue)
        try:
            known = await self._recent()
            seen = {event["id"] for event in known}
            if self._task is None:
                self._task = asyncio.create_task(self._poll(seen))
                self._task.add_done_callback(self._ended)
            yield None
            for event in _after(known, after) if after else ():
                yield event
            while queue in self._listeners:
                try:
                    event = await asyncio.wait_for(queue.get(), 1.0)
                except asyncio.TimeoutError:
                    yield None
                    continue
                if event["id"] not in seen:
                    yield event
        finally:
            self._listeners.discard(queue)
            if not self._listeners and self._task is not None:
                self._task.cancel()
                self._task = None

    async def close(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _recent(self) -> list[dict[str, Any]]:
        newest: list[dict[str, Any]] = await run_in_threadpool(lambda: self._outbox.history(limit=BATCH, newest_first=True))
        return newest[::-1]

    async def _poll(self, seen: set[str]) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            recent = await self._recent()
            new = [event for event in recent if event["id"] not in seen]
            if len(new) == BATCH:
                self._listeners.clear()
            for event in new:
                self._tell(event)
            seen = {event["id"] for event in recent}

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("the live event list stopped: %s", task.exception())
            self._listeners.clear()

    def _tell(self, event: dict[str, Any]) -> None:
        for queue in list(self._listeners):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._listeners.discard(queue)


def _after(events: list[dict[str, Any]], last: str) -> list[dict[str, Any]]:
    """What follows the event `last`; everything when it is no longer among the newest."""
    ids = [event["id"] for event in events]
    return events[ids.index(last) + 1 :] if last in ids else events
