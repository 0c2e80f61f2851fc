"""Passes inference requests on to the vision process, byte by byte: they are neither parsed nor collected here.

HTTP/1.1 (RFC 9112) over the control socket, on connections that are kept. httpx would spend several times as long on each request as this.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

MOST = 64
"""Requests under way at once; the vision process keeps the rest of its connections for the page."""
KEPT_S = 3.0
"""An idle connection older than this is not used again: the other side closes it after five seconds."""
ANSWERS_WITHIN_S = 660.0
"""Beyond the longest `serving.timeout_s`; the vision process answers earlier by itself."""
PASSED_ON = (b"content-type", b"content-length", b"content-encoding", b"inference-header-content-length")
RETURNED = (b"content-type", b"inference-header-content-length", b"retry-after")
PIECE = 256 * 1024

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """An ASGI application for inference requests. Belongs to one event loop."""

    def __init__(self, control_socket: Path) -> None:
        self._path = str(control_socket)
        self._idle: list[tuple[float, Connection]] = []
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        connection: Connection | None = None
        self._under_way += 1
        try:
            if self._under_way > MOST:
                await _drained(receive)
                await _refuse(send, 429, f"{MOST} requests are under way; try again soon")
                return
            connection = await self._connection()
            if await self._exchanged(scope, receive, send, *connection):
                self._idle.append((time.monotonic(), connection))
                connection = None
        except HTTPException as error:
            await _refuse(send, error.status_code, error.detail)
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.TimeoutError, asyncio.LimitOverrunError):
            await _refuse(send, 503, "the vision process does not answer; see its log")
        finally:
            self._under_way -= 1
            if connection is not None:
                connection[1].close()

    def close(self) -> None:
        """Close idle connections."""
        for _, (_, writer) in self._idle:
            writer.close()
        self._idle.clear()

    async def _connection(self) -> Connection:
        while self._idle:
            since, connection = self._idle.pop()
            if not connection[0].at_eof() and time.monotonic() - since < KEPT_S:
                return connection
            connection[1].close()
        return await asyncio.open_unix_connection(self._path, limit=PIECE)

    async def _exchanged(
        self, scope: Scope, receive: Receive, send: Send, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """One request and its answer; whether the connection can be used again."""
        given = {name: value for name, value in scope["headers"] if name in PASSED_ON}
        chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        if chunked:  # RFC 9112, 6.3: it overrides a length, which could let a second request hide in the body
            given.pop(b"content-length", None)
        writer.write(_request(scope, given, chunked))
        if not await _sent(receive, writer, chunked):
            return False
        gone = asyncio.ensure_future(receive())
        head = asyncio.ensure_future(_head(reader))
        try:
            await asyncio.wait((gone, head), timeout=ANSWERS_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
            if not head.done():
                if gone.done():
                    return False
                raise TimeoutError
            status, headers = head.result()
        finally:
            gone.cancel()
            head.cancel()
        left = int(headers[b"content-length"])  # the vision process always says it
        back = [(name, headers[name]) for name in (*RETURNED, b"content-length") if name in headers]
        await send({"type": "http.response.start", "status": status, "headers": back})
        return await _returned(reader, send, left) and headers.get(b"connection") != b"close"


def _request(scope: Scope, headers: Mapping[bytes, bytes], chunked: bool) -> bytes:
    path = scope.get("raw_path") or scope["path"].encode()
    lines = [b"%b %b HTTP/1.1" % (scope["method"].encode(), path), b"host: vision"]
    lines += [b"%b: %b" % pair for pair in headers.items()]
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    return b"\r\n".join([*lines, b"", b""])


async def _sent(receive: Receive, writer: asyncio.StreamWriter, chunked: bool) -> bool:
    """The body as it comes; False: the client left."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return False
        if part := message.get("body", b""):
            writer.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
            await writer.drain()
        if not message.get("more_body", False):
            if chunked:
                writer.write(b"0\r\n\r\n")
            return True


async def _returned(reader: asyncio.StreamReader, send: Send, left: int) -> bool:
    """The body of the answer; False: it broke off, and the server cuts the client's connection, for the answer has begun."""
    while left:
        try:
            piece = await reader.read(min(left, PIECE))
        except OSError:
            return False
        if not piece:
            return False
        left -= len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
    return True


async def _drained(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes]]:
    """Status and headers. Raises EOFError where the other side closes, ValueError for what is no answer."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    return int(first.split(b" ")[1]), headers


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
