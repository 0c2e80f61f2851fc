"""Events as they happen. Nothing runs while nobody listens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool

from agent.envelopes import number
from agent.outbox import Outbox

POLL_S = 0.25
QUIET_S = 1.0
PAGE = 200


async def follow(outbox: Outbox, after: int | None = None) -> AsyncGenerator[dict[str, Any] | None, None]:
    """Every event whose number is above `after` (without it: only new ones), by number, as fast as the listener takes them.

    None once at the start, from where on none is missed, and then whenever there was nothing for a second. A number that the outbox
    has not reached stems from an earlier outbox, so that everything is new.
    """
    newest: int = (await run_in_threadpool(outbox.stats))["event"]["seq"]
    position = newest if after is None else after if after <= newest else 0
    yield None
    spoken = time.monotonic()
    while True:
        page = await run_in_threadpool(partial(outbox.history, after_seq=position, limit=PAGE))
        for event in page:
            yield event
            position = number(event["id"])
            spoken = time.monotonic()
        if len(page) < PAGE:
            await asyncio.sleep(POLL_S)
        if time.monotonic() - spoken > QUIET_S:
            yield None
            spoken = time.monotonic()
