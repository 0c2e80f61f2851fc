"""A server's stop, and callers that go away, while requests are under way."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from agent import serving
from agent.serving import HANDLERS, ThreadedServer, bound
from tests.waiting import wait_until

UPLOAD = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(5000)
LIVE = b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n"


class Site:
    """Takes uploads, and gives an answer that does not end. `under_way` counts requests that have begun."""

    def __init__(self) -> None:
        self.under_way = 0
        listener = bound("127.0.0.1", 0)
        self.address = listener.getsockname()
        routes = [Route("/upload", self.upload, methods=["POST"]), Route("/live", self.live)]
        self.server = ThreadedServer(Starlette(routes=routes, exception_handlers=HANDLERS), listener, "site")

    async def upload(self, request: Request) -> Response:
        self.under_way += 1
        return PlainTextResponse(str(len(await request.body())))

    async def live(self, _: Request) -> Response:
        self.under_way += 1

        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield b"part"
                await asyncio.sleep(0.05)

        return StreamingResponse(parts())


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(serving, "GRACE_S", 0.2)
    made = Site()
    made.server.start()
    yield made
    made.server.stop()


def call(site: Site, request: bytes) -> socket.socket:
    caller = socket.create_connection(site.address, 60)
    caller.sendall(request)
    wait_until(lambda: site.under_way == 1, 10, "the request")
    return caller


@pytest.mark.parametrize(("request_", "status"), [(UPLOAD, b"HTTP/1.1 503 "), (LIVE, b"HTTP/1.1 200 ")], ids=["upload", "live"])
def test_a_stop_ends_what_is_under_way_without_a_trace(
    request_: bytes, status: bytes, site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), call(site, request_) as caller:
        caller.settimeout(60)
        answer = caller.recv(13) if request_ is LIVE else b""
        site.server.stop()
        answer += caller.recv(13) if request_ is UPLOAD else b""
    assert answer == status
    assert "site: a request was cut off by the stop" in caplog.text
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []


def test_a_caller_that_goes_away_leaves_no_trace(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        call(site, UPLOAD).close()
        wait_until(lambda: "site: a caller went away" in caplog.text, 10, "the server to notice")
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []
