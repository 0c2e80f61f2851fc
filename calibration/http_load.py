"""A client that keeps an HTTP/1.1 server busy: the same request from several kept connections, each sending the next when it is answered.

It is lean, so that it takes little of the processor from what is measured; requests are encoded beforehand.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engines.errors import EngineError

LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
ANSWERS_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Post:
    """A request, ready to be sent, of `images` pictures; `right` says whether a body is the right answer."""

    port: int
    path: str
    headers: dict[str, str]
    body: bytes
    images: int
    right: Callable[[bytes], bool]

    def encoded(self) -> bytes:
        """Its bytes on the wire."""
        headers = {"Host": f"127.0.0.1:{self.port}", "Content-Length": str(len(self.body)), **self.headers}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True, slots=True)
class Load:
    """What came of `sent` requests. `seconds`: in all; `latencies`: of each right answer; `wrong`: the first other one's status."""

    sent: int
    images: int
    seconds: float
    latencies: tuple[float, ...]
    wrong: str = ""

    @property
    def answered(self) -> int:
        """With status 200 and the right content."""
        return len(self.latencies)

    @property
    def per_second(self) -> float:
        """Pictures a second that were answered."""
        return self.answered * self.images / self.seconds


def load(post: Post, requests: int, clients: int) -> Load:
    """Send `requests` in all over `clients` connections."""
    return asyncio.run(_load(post, requests, clients))


def percentile_ms(turns: Sequence[Load], share: float) -> float:
    """Of all latencies. Raises EngineError where a turn had no right answer."""
    for turn in turns:
        if not turn.latencies:
            raise EngineError(f"no request was answered as it should be; the first answer was {turn.wrong or 'none'}")
    return 1e3 * float(np.percentile([latency for turn in turns for latency in turn.latencies], share))


async def _load(post: Post, requests: int, clients: int) -> Load:
    message, latencies, wrong = post.encoded(), list[float](), list[str]()
    left = requests

    async def client() -> None:
        nonlocal left
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", post.port)
            while left > 0:
                left -= 1
                started = time.perf_counter()
                writer.write(message)
                status, body = await asyncio.wait_for(_answer(reader), ANSWERS_WITHIN_S)
                if status == "200" and post.right(body):
                    latencies.append(time.perf_counter() - started)
                else:
                    wrong.append(status)
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            wrong.append(type(error).__name__)
        finally:
            if writer:
                writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Load(requests - left, post.images, time.perf_counter() - started, tuple(latencies), *wrong[:1])


async def _answer(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Status and body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    body = await reader.readexactly(int(length[1]) if length else 0)
    return head.split(b" ", 2)[1].decode(), body
