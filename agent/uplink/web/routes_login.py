"""Logging in and out, and the files of the page."""

from __future__ import annotations

import math
from pathlib import Path

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agent.http.files import html, icon
from agent.http.guard import session_token
from agent.http.passwords import SESSION_S, too_many
from agent.http.site import Site
from agent.serving import Problem
from agent.settings import WebSettings
from agent.uplink.web.auth import Login
from agent.uplink.web.models import Credentials, ProblemDocument

STATIC = Path(__file__).with_name("static")


def login_router(settings: WebSettings, login: Login) -> APIRouter:
    """The login form, and routes under /api/1 that begin and end a session."""
    router = APIRouter(tags=["login"])
    cookie = Site.of(settings).cookie

    @router.get("/login", include_in_schema=False)
    def login_form() -> Response:
        return html(STATIC / "login.html")

    @router.post("/api/1/login", status_code=204, responses={401: {"model": ProblemDocument}, 429: {"model": ProblemDocument}})
    async def log_in(credentials: Credentials, request: Request) -> Response:
        """Begin a session; its token comes as a cookie. After five wrong passwords an address has to wait."""
        address = request.client.host if request.client else ""
        wait = login.limit.wait_s(address)
        if wait > 0:
            raise too_many(wait)
        if not await run_in_threadpool(login.check, credentials.username, credentials.password, address):
            raise Problem(401, "Wrong user or password")
        token = await run_in_threadpool(login.open)
        answer = Response(status_code=204)
        answer.set_cookie(cookie, token, max_age=math.floor(SESSION_S), httponly=True, samesite="strict", secure=settings.tls is not None)
        return answer

    @router.post("/api/1/logout", status_code=204)
    async def log_out(request: Request) -> Response:
        """End the session."""
        token = session_token(request.headers, cookie)
        if token is not None:
            login.close(token)
        answer = Response(status_code=204)
        answer.delete_cookie(cookie, httponly=True, samesite="strict", secure=settings.tls is not None)
        return answer

    return router


def page_router() -> APIRouter:
    """The page itself, and the description of the REST interface."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def index() -> Response:
        return html(STATIC / "index.html")

    @router.get("/api")
    def reference() -> Response:
        return html(STATIC / "reference.html")

    @router.get("/favicon.ico")
    def favicon() -> Response:
        return icon()

    return router
