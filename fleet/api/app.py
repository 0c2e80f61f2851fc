"""The FastAPI application of the hub, and serving it."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp

from agent import __version__
from agent.errors import UnknownError
from agent.http.files import icon
from agent.http.site import ALL_HANDLERS, PageServer, Site
from agent.serving import problem_response
from fleet.api.access import OPEN, ROLE, Guard
from fleet.api.context import Context
from fleet.api.live import live_router
from fleet.api.metrics import probes_router
from fleet.api.routes_accounts import accounts_router, journal_router, session_router
from fleet.api.routes_alerts import alerts_router, rules_router
from fleet.api.routes_control import commands_router, desired_router
from fleet.api.routes_devices import devices_router, events_router
from fleet.api.routes_identities import identities_router, sharing_router
from fleet.api.routes_pictures import live_pictures_router, pictures_router
from fleet.api.routes_upkeep import maintenance_router, placing_router, refused_router
from fleet.console import LASTING, file, page, version
from fleet.desired import ConflictError

PREFIX = "/api/v1"


def web_server(context: Context) -> PageServer:
    """Console and API. Raises AlmenaError when the address or the certificate cannot be used."""
    return PageServer(context.settings.web, lambda stopping: create_app(context, stopping))


def create_app(context: Context, stopping: Callable[[], bool] = lambda: False) -> ASGIApp:
    """The guarded application. Answers that do not end by themselves end once `stopping()` is true."""
    app = FastAPI(
        title="Almena hub", version=__version__, docs_url=None, redoc_url=None, openapi_url=f"{PREFIX}/openapi.json",
        description="The REST interface of a fleet. Errors are problem documents (RFC 9457). Send the session cookie, or an API key as"
        f" `Authorization: Bearer KEY`; `{ROLE}` names the least role that an operation needs: viewer, operator, admin.",
        exception_handlers={**ALL_HANDLERS, UnknownError: _unknown, ConflictError: _conflict},
    )  # fmt: skip
    api = (
        session_router(context), devices_router(context), events_router(context), live_router(context, stopping), commands_router(context),
        desired_router(context), alerts_router(context), rules_router(context), accounts_router(context), journal_router(context),
        placing_router(context), maintenance_router(context), refused_router(context), identities_router(context), sharing_router(context),
        pictures_router(context), live_pictures_router(context, stopping),
    )  # fmt: skip
    for router in api:
        app.include_router(router, prefix=PREFIX)
    app.include_router(probes_router(context))
    app.include_router(_pages())
    _require_roles(app)
    return Guard(app, Site.of(context.settings.web), context.accounts)


def _require_roles(app: FastAPI) -> None:
    """Every operation says who may call it, or is open to all."""
    for path, operations in app.openapi()["paths"].items():
        for operation in operations.values():
            assert path in OPEN or ROLE in operation, f"{path} is declared without needs(role)"


def _pages() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def index() -> Response:
        return HTMLResponse(page("index.html"))

    @router.get("/login")
    def login_form() -> Response:
        return HTMLResponse(page("login.html"))

    @router.get(f"/static/{version()}/{{name}}")
    async def static(name: str, request: Request) -> Response:
        if (found := file(name)) is None:
            raise UnknownError(f"there is no file {name}")
        content, compressed, kind = found
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            return Response(compressed, media_type=kind, headers={**LASTING, "Content-Encoding": "gzip"})
        return Response(content, media_type=kind, headers=LASTING)

    @router.get("/favicon.ico")
    def favicon() -> Response:
        return icon()

    return router


async def _unknown(_request: Request, error: Exception) -> Response:
    return problem_response(404, "Not here", str(error))


async def _conflict(_request: Request, error: Exception) -> Response:
    return problem_response(409, "Changed meanwhile", str(error))
