"""The FastAPI application of the local page, and serving it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

from agent import __version__
from agent.http.files import static_files
from agent.http.site import ALL_HANDLERS, PageServer
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


def serve(context: WebContext) -> PageServer:
    """Serve the page in a thread. Raises AlmenaError when the address cannot be bound or the certificate cannot be used."""
    server = PageServer(context.settings.web, lambda stopping: create_app(context, stopping))
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
        exception_handlers=ALL_HANDLERS,
    )  # fmt: skip
    app.include_router(page_router())
    app.include_router(faces_router(context.outbox, vision))
    app.include_router(events_router(context.outbox, stopping))
    app.include_router(state_router(context, vision))
    app.include_router(studies_router(settings, vision))
    app.include_router(probes_router(context, vision))
    if login:
        app.include_router(login_router(settings, login))
    app.mount("/static", static_files(STATIC))
    describe(app)
    return Guard(InferencePaths(relay, app), settings, login)
