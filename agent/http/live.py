"""Answers that go on: Server-Sent Events (HTML standard, section 9.2)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

T = TypeVar("T")


async def event_stream(
    messages: AsyncGenerator[T | None, None], written: Callable[[T], str], stopping: Callable[[], bool]
) -> AsyncIterator[str]:
    """What `written` makes of each message. The first None becomes `ready`, from where on nothing is missed; each further one a comment,
    which keeps the connection open. Ends once `stopping()` is true."""
    quiet = "retry: 1000\nevent: ready\ndata: {}\n\n"
    try:
        async for message in messages:
            if stopping():
                return
            yield quiet if message is None else written(message)
            quiet = ":\n\n"
    finally:
        await messages.aclose()
