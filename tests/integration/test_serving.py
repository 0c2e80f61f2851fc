"""A server's stop, and callers that go away, while requests are under way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from agent import serving
from agent.serving import HANDLERS, ThreadedServer, bound
from tests.fakes.certificates import Authority
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


def answered(caller: socket.socket, address: tuple[str, int]) -> bool:
    """Whether the server says anything to a request over TLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with contextlib.suppress(OSError), caller:
        caller.settimeout(60)
        caller.connect(address)
        with context.wrap_socket(caller) as secure:
            secure.sendall(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n")
            return secure.recv(9) == b"HTTP/1.1 "
    return False


def from_(host: str) -> socket.socket:
    caller = socket.socket()
    caller.bind((host, 0))
    return caller


@contextlib.contextmanager
def secure_site(folder: Path) -> Iterator[tuple[str, int]]:
    pair = Authority(folder / "ca").server()
    listener = bound("127.0.0.1", 0)
    files = {"ssl_certfile": str(pair.cert), "ssl_keyfile": str(pair.key)}
    server = ThreadedServer(Starlette(exception_handlers=HANDLERS), listener, "site", **files)
    server.start()
    yield listener.getsockname()
    server.stop()


def test_callers_who_say_nothing_shut_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(serving, "OPEN_OF_ONE", 5)
    with secure_site(tmp_path) as address:
        with contextlib.ExitStack() as silent:
            for _ in range(40):
                silent.enter_context(socket.create_connection(address, 60))
            wait_until(lambda: "too many are open" in caplog.text, 30, "the word on too many connections")
            assert answered(from_("127.0.0.2"), address), "others are served"
        wait_until(lambda: answered(from_("127.0.0.1"), address), 30, "the silent ones to be gone")
    assert len([record for record in caplog.records if "too many" in record.getMessage()]) == 1


def test_many_networks_shut_nobody_out_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "OPEN_OF_ONE", 5)
    monkeypatch.setattr(serving, "OPEN", 10)
    with secure_site(tmp_path) as address, contextlib.ExitStack() as silent:
        for host in ("127.0.0.1", "127.0.0.3") * 10:
            caller = silent.enter_context(from_(host))
            caller.connect(address)
        for _ in range(3):
            assert answered(from_("127.0.0.2"), address)


def test_what_is_no_http_does_not_fill_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):
        with socket.create_connection(site.address, 60) as caller:
            caller.sendall(b"\x00garbage\r\n\r\n")
            assert caller.recv(12) == b"HTTP/1.1 400"
    assert len([record for record in caplog.records if "Invalid HTTP" in record.getMessage()]) <= 1


def test_tls_has_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HANDSHAKE_S", 0.3)
    with secure_site(tmp_path) as address, socket.create_connection(address, 60) as silent:
        assert silent.recv(1) == b""


OUT_OF_FILES = """
import contextlib, logging, os, resource, socket, sys
from starlette.applications import Starlette
from agent.serving import HANDLERS, ThreadedServer, bound
logging.basicConfig(stream=sys.stdout)
listener = bound("127.0.0.1", 0)
server = ThreadedServer(Starlette(exception_handlers=HANDLERS), listener, "site")
server.start()
callers = [socket.socket() for _ in range(2)]
for caller in callers:
    caller.settimeout(60)
ask = b"GET /none HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"
callers[0].connect(listener.getsockname())
callers[0].sendall(ask)
print(callers[0].recv(13), flush=True)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with contextlib.suppress(OSError):
    while True:
        os.dup(0)
callers[1].connect(listener.getsockname())
callers[1].sendall(ask)
sys.stdin.readline()
os.close(63)
print(callers[1].recv(13), flush=True)
server.stop()
"""


def test_a_server_without_file_descriptors_says_so_and_goes_on() -> None:
    command = [sys.executable, "-c", OUT_OF_FILES]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        said = [child.stdout.readline(), child.stdout.readline()]
        assert "no file descriptor is free" in said[1], said
        rest, _ = child.communicate("\n", timeout=60)
    assert [said[0], *rest.splitlines(keepends=True)] == [f"{b'HTTP/1.1 404 '!r}\n"] * 2
