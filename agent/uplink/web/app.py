"""The FastAPI application of the local page, and serving it."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from agent import __version__
from agent.errors import AlmenaError
from agent.serving import HANDLERS, ThreadedServer, bound, problem_response
from agent.settings import WebSettings
from agent.uplink.web.auth import Login
from agent.uplink.web.changes import recorded
from agent.uplink.web.context import WebContext
from agent.uplink.web.guard import Guard
from agent.uplink.web.relay import Relay
from agent.uplink.web.routes_events import events_router
from agent.uplink.web.routes_faces import faces_router
from agent.uplink.web.routes_inference import InferencePaths, describe
from agent.uplink.web.routes_login import STATIC, login_router, page_router
from agent.uplink.web.routes_state import probes_router, state_router
from agent.uplink.web.routes_studies import studies_router
from agent.uplink.web.vision import VisionClient

log = logging.getLogger(__name__)


class WebServer:
    """The local page while it is served."""

    def __init__(self, context: WebContext) -> None:
        settings = context.settings.web
        listener = _listen(settings)
        self.url = _url(settings, listener)
        options = {"ssl_certfile": str(settings.tls.cert_file), "ssl_keyfile": str(settings.tls.key_file)} if settings.tls else {}
        try:
            self._server = ThreadedServer(create_app(context, lambda: self._server.stopping), listener, "web", **options)
        except OSError as error:
            listener.close()
            raise AlmenaError(f"web.tls: certificate or key cannot be used: {error}") from error

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()
        log.info("the page is at %s", self.url)

    def stop(self) -> None:
        """End running answers and close the port."""
        self._server.stop()


def serve(context: WebContext) -> WebServer:
    """Serve the page in a thread. Raises AlmenaError when the address cannot be bound or the certificate cannot be used."""
    server = WebServer(context)
    server.start()
    return server


def create_app(context: WebContext, stopping: Callable[[], bool] = lambda: False) -> ASGIApp:
    """The guarded application. Answers that do not end by themselves end once `stopping()` is true."""
    settings = context.settings.web
    login = Login(settings.login, recorded(context.outbox)) if settings.login else None
    vision = VisionClient(context.settings.control_socket)
    relay = Relay(context.settings.control_socket)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await vision.close()
        relay.close()
        if login:
            login.end()

    app = FastAPI(
        title="Almena", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/api/1/openapi.json",
        description="The REST interface of one device. Errors are problem documents (RFC 9457). "
        "With a login set, send HTTP Basic credentials or the session cookie.",
        exception_handlers={**HANDLERS, RequestValidationError: _on_invalid},
    )  # fmt: skip
    app.include_router(page_router())
    app.include_router(faces_router(context.outbox, vision))
    app.include_router(events_router(context.outbox, stopping))
    app.include_router(state_router(context, vision))
    app.include_router(studies_router(settings, vision))
    app.include_router(probes_router(context, vision))
    if login:
        app.include_router(login_router(settings, login))
    app.mount("/static", StaticFiles(directory=STATIC))
    describe(app)
    return Guard(InferencePaths(relay, app), settings, login)


async def _on_invalid(_request: Request, error: RequestValidationError) -> Response:
    problems = [{"field": ".".join(map(str, found["loc"][1:])), "message": found["msg"]} for found in error.errors()]
    detail = "; ".join(f"{found['field']}: {found['message']}" if found["field"] else found["message"] for found in problems)
    return problem_response(422, "The request is not valid", detail, members={"errors": problems})


def _listen(settings: WebSettings) -> socket.socket:
    try:
        return bound(settings.host, settings.port)
    except socket.gaierror as error:
        raise AlmenaError(f"web.host: {settings.host} is no address of this machine: {error.strerror}") from error
    except OSError as error:
        raise AlmenaError(
            f"the page cannot be served at {settings.host}:{settings.port}: {error.strerror}; choose another web.port"
        ) from error


def _url(settings: WebSettings, listener: socket.socket) -> str:
    name: Any = listener.getsockname()
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(settings.host, settings.host)
    return f"{'https' if settings.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{name[1]}/"
