"""A TCP proxy before a broker that is as bad as a test wants it: slow, late, silent, broken, and MQTT's PUBLISH packets twice or out of
order."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

PUBLISH = 3
LATE_S = 0.05
"""A packet that is overtaken comes so much later."""
_ENDS = (asyncio.IncompleteReadError, ConnectionError)


@dataclass
class Badness:
    """In both directions. `bandwidth` in bytes per second and connection; `twice` and `overtaken` are shares of the PUBLISH packets."""

    delay_s: tuple[float, float] = (0.0, 0.0)
    bandwidth: float = float("inf")
    stalled: bool = False
    twice: float = 0.0
    overtaken: float = 0.0


class BadLink:
    """Listens on a free loopback `port` while entered. What is done to packets follows from `seed` and from when they come."""

    def __init__(self, to: int, seed: int) -> None:
        self.now = Badness()
        self._to = to
        self._chance = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bad-link", daemon=True)
        self.port = 0

    def __enter__(self) -> BadLink:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._connected, "127.0.0.1", 0), self._loop).result(30)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def bad(self, badness: Badness) -> Iterator[None]:
        """Be so within."""
        self.now = badness
        try:
            yield
        finally:
            self.now = Badness()

    def lead_to(self, port: int) -> None:
        """Connections from now on go there."""
        self._to = port

    def reset(self) -> None:
        """Break all connections (TCP's RST)."""
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        self._abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, back}
        self._writers |= both
        pumps = [asyncio.ensure_future(self._pump(reader, back)), asyncio.ensure_future(self._pump(there, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._writers -= both
            for each in both:
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Packets keep their order, but for those that are to be overtaken."""
        last = 0.0
        with suppress(*_ENDS):
            while True:
                packet = await _packet(reader)
                while self.now.stalled:
                    await asyncio.sleep(0.02)
                now = self._loop.time()
                last = max(now + self._chance.uniform(*self.now.delay_s), last + 1e-6) + len(packet) / self.now.bandwidth
                published = packet[0] >> 4 == PUBLISH
                late = published and self._chance.random() < self.now.overtaken
                due = last + LATE_S if late else last
                self._loop.call_at(due, _writing(writer, packet))
                if published and self._chance.random() < self.now.twice:
                    self._loop.call_at(due + LATE_S, _writing(writer, packet))
                await writer.drain()
                await asyncio.sleep(max(0.0, last - now - 1.0))


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """One control packet (MQTT 5, clause 2.1)."""
    head = await reader.readexactly(2)
    length, shift, more = head[1] & 0x7F, 7, head[1]
    while more & 0x80:
        byte = await reader.readexactly(1)
        head, more = head + byte, byte[0]
        length |= (more & 0x7F) << shift
        shift += 7
    return head + await reader.readexactly(length)


def _writing(writer: asyncio.StreamWriter, packet: bytes) -> Callable[[], None]:
    def write() -> None:
        if not writer.is_closing():
            writer.write(packet)

    return write
