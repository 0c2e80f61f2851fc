"""What both processes need to serve HTTP: a server in a thread, and errors as problem documents (RFC 9457)."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import h11
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.errors import AlmenaError

log = logging.getLogger(__name__)

ENDS_WITHIN_S = 10.0
MAX_CONNECTIONS = 100
"""Beyond these a caller gets 503 at once, if all are being answered."""
WITHIN_S: dict[Any, float] = {h11.IDLE: 10.0, h11.SEND_BODY: 120.0}
"""A caller has this long for the head of a request, and for its body (16 MiB over a slow line)."""


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
    return problem_response(500, "Internal error", "The agent's log has the details.")


HANDLERS: dict[Any, Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    HTTPException: on_http_error,
    AlmenaError: on_own_error,
    Exception: on_crash,
}


class PunctualProtocol(H11Protocol):
    """Closes connections whose request does not come, for which uvicorn has no time-out: each in its time, and where all places are taken
    the one that has waited longest, so that silent callers shut nobody out."""

    _state: object = None
    _since = 0.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller came."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) >= MAX_CONNECTIONS:
            others = (one for one in self.connections if isinstance(one, PunctualProtocol) and one is not self)
            waiting = [one for one in others if one.conn.their_state in WITHIN_S]
            if waiting:
                longest = min(waiting, key=lambda one: one._since)
                self.connections.discard(longest)
                longest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Some of a request came."""
        super().data_received(data)
        self._watch()

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


def bound(host: str, port: int) -> socket.socket:
    """A TCP socket at that address, which does not listen yet. Raises OSError; socket.gaierror for what is no address."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


class ThreadedServer:
    """uvicorn in a daemon thread over a socket that is already bound."""

    def __init__(self, app: ASGIApp, listener: socket.socket, name: str, **options: Any) -> None:
        config = uvicorn.Config(
            app, loop="asyncio", http=PunctualProtocol, ws="none", lifespan="on", proxy_headers=False, server_header=False,
            log_config=None, access_log=False, log_level="warning", timeout_graceful_shutdown=2, limit_concurrency=MAX_CONNECTIONS,
            **options,
        )  # fmt: skip
        config.load()
        self._server = uvicorn.Server(config)
        self._listener = listener
        self._name = name
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name=name, daemon=True)

    @property
    def stopping(self) -> bool:
        """Long answers end themselves when this turns true."""
        return self._server.should_exit

    def start(self) -> None:
        """Start the thread. Connections made from now on are answered."""
        self._listener.listen(128)
        self._thread.start()

    def stop(self) -> None:
        """Close the socket, give running requests two seconds, and end the thread."""
        self._server.should_exit = True
        self._thread.join(ENDS_WITHIN_S)
        self._listener.close()
        if self._thread.is_alive():
            log.error("%s did not end within %g s", self._name, ENDS_WITHIN_S)
