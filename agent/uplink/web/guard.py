"""Who may use the page, and what may be sent to it."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Scope

from agent.http import guard
from agent.http.guard import MAX_JSON_BYTES, Body, Valid, session_token
from agent.http.passwords import too_many
from agent.http.site import Site
from agent.serving import MAX_IMAGE_BYTES, Problem
from agent.settings import WebSettings
from agent.uplink.web.auth import Login

OPEN = ("/login", "/api/1/login", "/healthz", "/readyz")
MAX_INFERENCE_BYTES = 32 * 1024 * 1024


class Guard(guard.Guard):
    """The guard of the local page: one login, pictures and inference."""

    def __init__(self, app: ASGIApp, settings: WebSettings, login: Login | None) -> None:
        super().__init__(app, Site.of(settings))
        self._login = login

    async def admit(self, scope: Scope, headers: Headers) -> Valid | None:
        """By a session, or by HTTP Basic credentials."""
        path, login = scope["path"], self._login
        if login is None or path in OPEN or path.startswith("/static/"):
            return None
        token = session_token(headers, self._site.cookie)
        if token is not None and login.valid(token):
            return lambda: login.valid(token, use=False)
        address = scope["client"][0] if scope.get("client") else ""
        wait = login.limit.wait_s(address)
        if wait > 0 and "authorization" in headers:
            raise too_many(wait)
        if "authorization" in headers and await run_in_threadpool(login.check_basic, headers["authorization"], address):
            return None
        if path == "/":
            raise Problem(303, "Log in", headers={"Location": "/login"})
        raise Problem(401, "Log in", "send the session cookie of /api/1/login, or HTTP Basic credentials")

    def body(self, path: str, kind: str) -> Body:
        """The clients of inference send binary bodies, some without a type; that changes nothing here."""
        if is_inference(path):
            return Body(kind in ("", "application/octet-stream"), MAX_INFERENCE_BYTES, "application/json or application/octet-stream")
        large = kind == "multipart/form-data" or kind.startswith("image/")
        return Body(large, MAX_IMAGE_BYTES if large else MAX_JSON_BYTES, "application/json, multipart/form-data or image/*")


def is_inference(path: str) -> bool:
    """Whether it belongs to the inference protocols, /v1 and /v2."""
    return path in ("/v1", "/v2") or path.startswith(("/v1/", "/v2/"))
