"""HTTPS with client certificates, on a port of its own. Who has no certificate of the fleet gets no answer, not even an error page."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.errors import AlmenaError
from agent.handed import handed
from agent.http.site import ALL_HANDLERS
from agent.serving import PEER, Problem, ThreadedServer, bound, error_response
from fleet.door.trust import Trust
from fleet.settings import DoorSettings

log = logging.getLogger(__name__)

PREFIX = "/door/1"
LARGEST_MESSAGE = 1024 * 1024
"""Of a WebSocket, in bytes."""


def device_of(connection: HTTPConnection) -> str:
    """The device that has come in."""
    device: str = connection.state.device
    return device


Device = Annotated[str, Depends(device_of)]


class Visits(Protocol):
    """Gives the name of the device of a certificate (DER), or raises Problem."""

    def device(self, certificate: bytes) -> str: ...


class Gate:
    """ASGI middleware: each request is of a device by now, and of one that is not revoked."""

    def __init__(self, app: ASGIApp, trust: Visits) -> None:
        self._app = app
        self._trust = trust

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let in or refuse."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            scope["state"]["device"] = await run_in_threadpool(self._trust.device, scope["state"][PEER])
        except Problem as problem:
            log.warning("the door is closed to %s: %s", (scope.get("client") or "?")[0], problem.title)
            await error_response(problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def door_app(trust: Visits, routers: Sequence[APIRouter]) -> ASGIApp:
    """The application; each router is below PREFIX, and `Device` tells its endpoints who came. PREFIX itself says who that is."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, exception_handlers=ALL_HANDLERS)

    @app.get(PREFIX)
    def who(device: Device) -> dict[str, str]:
        return {"device": device}

    for router in routers:
        app.include_router(router, prefix=PREFIX)
    return Gate(app, trust)


class DoorServer(ThreadedServer):
    """While it is open. Raises AlmenaError where the address, a certificate or the list of revoked ones cannot be used."""

    def __init__(self, settings: DoorSettings, routers: Callable[[Callable[[], bool]], Sequence[APIRouter]]) -> None:
        """`routers` is given what turns true when the door closes: long answers end then."""
        ca = handed(settings.client_ca)
        trust = Trust(ca, settings.crl)
        try:
            listener = bound(settings.host, settings.port)
        except OSError as error:
            raise AlmenaError(f"the door cannot be opened at {settings.host}:{settings.port}: {error.strerror}; set door.port") from error
        self.port: int = listener.getsockname()[1]
        try:
            super().__init__(
                door_app(trust, routers(lambda: self.stopping)), listener, "door", ws="websockets-sansio",
                ws_max_size=LARGEST_MESSAGE, ws_max_queue=4, ws_per_message_deflate=False, ws_ping_interval=None,
                ssl_certfile=str(handed(settings.certificate)), ssl_keyfile=str(handed(settings.key_file)), ssl_ca_certs=str(ca),
                ssl_cert_reqs=ssl.CERT_REQUIRED,
            )  # fmt: skip
        except OSError as error:
            listener.close()
            raise AlmenaError(f"door: certificate or key cannot be used: {error}") from error
        assert self._config.ssl is not None
        self._config.ssl.num_tickets = 0  # see `agent.uplink.door.Door.connect`

    def start(self) -> None:
        """Open it."""
        super().start()
        log.info("the door for devices is open at port %d", self.port)
