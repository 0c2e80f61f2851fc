"""What both processes need to serve HTTP: a server in a thread, and errors as problem documents (RFC 9457)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import h11
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.errors import AlmenaError

log = logging.getLogger(__name__)

GRACE_S = 1.5
ENDS_WITHIN_S = 10.0
MAX_CONNECTIONS = 100
"""Beyond these a caller gets 503 at once, if all are being answered."""
OPEN_OF_ONE = 200
OPEN = 400
"""Connections that may be open from one network, and in all, whatever they have said: what comes beyond is closed at once."""
HANDSHAKE_S = 10.0
"""A caller has this long for TLS."""
BACKLOG = 128
TELL_EVERY_S = 60.0
OUT_OF_FILES_S = 0.05
"""The pause after a connection for which there was no file descriptor: without it the loop would turn as fast as it can."""
WITHIN_S: dict[Any, float] = {h11.IDLE: 10.0, h11.SEND_BODY: 120.0}
"""A caller has this long for the head of a request, and for its body (16 MiB over a slow line)."""
MAX_IMAGE_BYTES = 16 * 1024 * 1024
"""Of one picture that is sent in."""
PEER = "peer"
"""Of a request's state: the caller's certificate in DER, where the server has asked for one."""


class Problem(HTTPException):
    """An error answer: a short `title` for the kind of error, a `detail` that says what to do, and further members."""

    def __init__(self, status: int, title: str, detail: str = "", headers: dict[str, str] | None = None, **members: Any) -> None:
        super().__init__(status, detail or title, headers)
        self.title = title
        self.members = members


def problem_response(
    status: int, title: str, detail: str = "", headers: dict[str, str] | None = None, members: dict[str, Any] | None = None
) -> Response:
    """An `application/problem+json` answer (RFC 9457, clause 3)."""
    body = {"type": "about:blank", "title": title, "status": status, **({"detail": detail} if detail else {}), **(members or {})}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def error_response(error: HTTPException) -> Response:
    """The answer that an HTTPException or a Problem stands for."""
    if isinstance(error, Problem):
        detail = error.detail if error.detail != error.title else ""
        return problem_response(error.status_code, error.title, detail, dict(error.headers or {}), error.members)
    return problem_response(error.status_code, error.detail, headers=dict(error.headers or {}))


async def on_http_error(_request: Request, error: Exception) -> Response:
    """Exception handler: HTTPException and Problem."""
    assert isinstance(error, HTTPException)
    return error_response(error)


async def on_own_error(_request: Request, error: Exception) -> Response:
    """Exception handler: AlmenaError, whose message is meant for users."""
    return problem_response(422, "The request cannot be carried out", str(error))


async def on_crash(_request: Request, _error: Exception) -> Response:
    """Exception handler: a bug. The server logs the trace; the caller learns only that it happened."""
    return problem_response(500, "Internal error", "The log has the details.")


HANDLERS: dict[Any, Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    HTTPException: on_http_error,
    AlmenaError: on_own_error,
    Exception: on_crash,
}


class _Seldom(logging.Filter):
    """Lets the same warning pass once in TELL_EVERY_S: what a stranger sends must not fill the log."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is told."""
        if record.levelno != logging.WARNING:
            return True
        now = time.monotonic()
        self._told = {text: at for text, at in self._told.items() if now - at < TELL_EVERY_S}
        return self._told.setdefault(record.getMessage(), now) == now


logging.getLogger("uvicorn.error").addFilter(_Seldom())


class PunctualProtocol(H11Protocol):
    """Closes connections whose request does not come, for which uvicorn has no time-out: each in its time, and where all places are taken
    the one that has waited longest, so that silent callers shut nobody out."""

    _state: object = None
    _since = 0.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller came."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and (certificate := tls.getpeercert(binary_form=True)):
            self.app_state = {**self.app_state, PEER: certificate}
        self._watch()
        if len(self.connections) >= MAX_CONNECTIONS:
            others = (one for one in self.connections if isinstance(one, PunctualProtocol) and one is not self)
            waiting = [one for one in others if one.conn.their_state in WITHIN_S]
            if waiting:
                longest = min(waiting, key=lambda one: one._since)
                self.connections.discard(longest)
                longest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Some of a request came; where it was the head of a WebSocket's, that is all of it."""
        super().data_received(data)
        if self.transport.get_protocol() is self:
            self._watch()
        else:
            self._unwatch()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller went."""
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        state = self.conn.their_state
        if state is self._state:
            return
        self._unwatch()
        self._state, self._since = state, self.loop.time()
        if state in WITHIN_S:
            self._late = self.loop.call_later(WITHIN_S[state], self.transport.abort)

    def _unwatch(self) -> None:
        if self._late:
            self._late.cancel()
            self._late = None


def network_of(address: str) -> str:
    """What a caller counts by: its address, of IPv6 its /64, of an IPv4 address in IPv6's clothes that one; other text as it is."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


async def body_of(request: Request, limit: int) -> bytes:
    """All that a request sends. Raises Problem (413) for more than `limit` bytes."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise Problem(413, "The request is too large", f"at most {limit} bytes")
        parts.append(part)
    return b"".join(parts)


class BoundedListener(socket.socket):
    """Takes OPEN_OF_ONE connections of a network at most, and OPEN in all, where the oldest of the network that has most gives way, so that
    callers who say nothing, not even of TLS, shut nobody else out; what it closes it tells once in TELL_EVERY_S."""

    _closed = 0
    _told = float("-inf")

    def __init__(self, family: int, kind: int, protocol: int) -> None:
        super().__init__(family, kind, protocol)
        self._open: list[tuple[socket.socket, str]] = []

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection. Raises BlockingIOError where there is none that may stay."""
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._tell("no file descriptor is free for further connections (LimitNOFILE=)")
            time.sleep(OUT_OF_FILES_S)
            raise BlockingIOError from None
        self._open = [one for one in self._open if one[0].fileno() >= 0]
        network = network_of(address[0])
        if sum(known == network for _, known in self._open) >= OPEN_OF_ONE:
            connection.close()
            self._tell_closed(network)
            raise BlockingIOError
        if len(self._open) >= OPEN:
            ((fullest, _),) = Counter(known for _, known in self._open).most_common(1)
            oldest = next(one for one in self._open if one[1] == fullest)
            self._open.remove(oldest)
            with contextlib.suppress(OSError):
                oldest[0].shutdown(socket.SHUT_RDWR)  # the loop, which has it, closes it then
            self._tell_closed(fullest)
        self._open.append((connection, network))
        return connection, address

    def _tell_closed(self, network: str) -> None:
        self._closed += 1
        self._tell(f"connections closed, because too many are open: {self._closed} so far, this one from {network}")

    def _tell(self, what: str) -> None:
        if time.monotonic() - self._told > TELL_EVERY_S:
            self._told = time.monotonic()
            log.warning("port %s: %s", self.getsockname()[1], what)


def bound(host: str, port: int) -> socket.socket:
    """A TCP socket at that address, which does not listen yet. Raises OSError; socket.gaierror for what is no address."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = BoundedListener(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


class _CutOff:
    """Requests that their caller, or the stop of the server, cuts off end without the traces that uvicorn would log for them."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except ClientDisconnect:
            log.info("%s: a caller went away before its request was complete", self._name)
        except asyncio.CancelledError:
            log.info("%s: a request was cut off by the stop", self._name)
            if not begun and scope["type"] == "http":
                await problem_response(503, "The agent is stopping", "try again in a moment", {"Retry-After": "5"})(scope, receive, send)


class _Certificate:
    """Certificate and key of a server, which are loaded again when their files change."""

    def __init__(self, context: ssl.SSLContext, name: str, *files: str) -> None:
        """`files`: the certificate's and the key's, which `context` has loaded."""
        self._context = context
        self._name = name
        self._files = files
        self._read = self._state()

    def look(self) -> None:
        """New connections show what the files hold. Of no use, that is told once, and they show what they showed."""
        state = self._state()
        if state == self._read:
            return
        self._read = state
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)  # a key that does not fit would leave none
            self._context.load_cert_chain(*self._files)
        except OSError as error:
            log.error("%s: the new certificate or key in %s cannot be used; the old one stays: %s", self._name, self._files[0], error)
        else:
            log.info("%s: connections show the new certificate in %s", self._name, self._files[0])

    def _state(self) -> list[tuple[int, int, int]] | None:
        try:
            return [(found.st_ctime_ns, found.st_size, found.st_ino) for found in map(os.stat, self._files)]
        except OSError:
            return None


class _Server(uvicorn.Server):
    """Gives callers HANDSHAKE_S for TLS, looks at its certificate each second, and cuts off at a stop what takes longer than GRACE_S."""

    def __init__(self, config: uvicorn.Config, certificate: _Certificate | None) -> None:
        super().__init__(config)
        self._certificate = certificate

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen at `sockets`."""
        await super().startup([])
        loop, tls = asyncio.get_running_loop(), self.config.ssl
        within_s = HANDSHAKE_S if tls else None
        for each in sockets or []:
            server = await loop.create_server(self._protocol, sock=each, backlog=BACKLOG, ssl=tls, ssl_handshake_timeout=within_s)
            self.servers.append(server)

    def _protocol(self) -> asyncio.Protocol:
        return PunctualProtocol(self.config, self.server_state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second; true ends the server."""
        if self._certificate and counter % 10 == 0:
            self._certificate.look()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No more connections, time for those that are there, and the end."""
        late = asyncio.get_running_loop().call_later(GRACE_S, self._cut_off)
        await super().shutdown(sockets)
        late.cancel()

    def _cut_off(self) -> None:
        """Half an answer breaks off; a request without any yet is still told why."""
        for one in list(self.server_state.connections):
            if isinstance(one, PunctualProtocol) and one.cycle is not None and one.cycle.response_started:
                one.transport.abort()
        for task in list(self.server_state.tasks):
            task.cancel()


class ThreadedServer:
    """uvicorn in a daemon thread over a socket that is already bound. A certificate that is renewed in its place is seen within seconds."""

    def __init__(self, app: ASGIApp, listener: socket.socket, name: str, *, ws: str = "none", **options: Any) -> None:
        config = uvicorn.Config(
            _CutOff(app, name), loop="asyncio", http=PunctualProtocol, ws=ws, lifespan="on", proxy_headers=False, server_header=False,
            log_config=None, access_log=False, log_level="warning", timeout_graceful_shutdown=2, limit_concurrency=MAX_CONNECTIONS,
            **options,
        )  # fmt: skip
        config.load()
        self._config = config
        files = (options.get("ssl_certfile"), options.get("ssl_keyfile"))
        self._server = _Server(config, _Certificate(config.ssl, name, *filter(None, files)) if config.ssl else None)
        self._listener = listener
        self._name = name
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name=name, daemon=True)

    @property
    def stopping(self) -> bool:
        """Long answers end themselves when this turns true."""
        return self._server.should_exit

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread. Connections made from now on are answered."""
        self._listener.listen(BACKLOG)
        self._thread.start()

    def stop(self) -> None:
        """Close the socket, give running requests GRACE_S, and end the thread."""
        self._server.should_exit = True
        self._thread.join(ENDS_WITHIN_S)
        self._listener.close()
        if self._thread.is_alive():
            log.error("%s did not end within %g s", self._name, ENDS_WITHIN_S)
