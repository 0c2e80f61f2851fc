"""Stands in front of every request: which Host, which Origin, how large, logged in or not; and adds security headers to every answer."""

from __future__ import annotations

import ipaddress
import socket
import time
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.serving import Problem, error_response
from agent.settings import WebSettings
from agent.uplink.web.auth import Login

LOOPBACK = ("127.0.0.1", "::1", "localhost")
SAFE = ("GET", "HEAD", "OPTIONS")
OPEN = ("/login", "/api/1/login", "/healthz", "/readyz")
MAX_IMAGE_BYTES = 16 * 1024 * 1024
MAX_JSON_BYTES = 64 * 1024
MAX_INFERENCE_BYTES = 32 * 1024 * 1024
SESSION_CHECK_S = 2.0
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """ASGI middleware. Pages of other sites reach nothing here: not by DNS rebinding (Host), not by forgery (Origin, Fetch Metadata)."""

    def __init__(self, app: ASGIApp, settings: WebSettings, login: Login | None) -> None:
        self._app = app
        self._login = login
        self._scheme = "https" if settings.tls else "http"
        self._cookie = cookie_name(settings)
        self._loopback = settings.host in LOOPBACK
        named = () if self._loopback else (settings.host, socket.gethostname().lower(), f"{socket.gethostname().lower()}.local")
        self._hosts = {*LOOPBACK, *named, *(host.lower() for host in settings.allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse or pass on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if self._scheme == "https":
                    headers["Strict-Transport-Security"] = "max-age=31536000"
                headers.setdefault("Cache-Control", "no-cache" if scope["path"].startswith("/static/") else "no-store")
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check_host(headers)
            self._check_origin(scope, headers)
            limit = _check_body(scope, headers)
            token = await self._check_login(scope, headers)
        except Problem as problem:
            await error_response(problem)(scope, receive, send_guarded)
            return
        await self._app(scope, _limited(receive, limit), self._while_valid(token, send_guarded) if token else send_guarded)

    def _while_valid(self, token: str, send: Send) -> Send:
        """Ends live answers with the session they belong to."""
        login = self._login
        assert login
        checked, over = time.monotonic(), False

        async def send_while_valid(message: Message) -> None:
            nonlocal checked, over
            if over:
                return
            if message.get("more_body") and time.monotonic() - checked > SESSION_CHECK_S:
                checked, over = time.monotonic(), not login.valid(token, use=False)
            await send({"type": "http.response.body"} if over else message)

        return send_while_valid

    def _check_host(self, headers: Headers) -> None:
        """A name that somebody else's DNS answers for is never ours; an address literal cannot be rebound."""
        given = headers.getlist("host")
        name = _hostname(given[0]) if len(given) == 1 else None
        if name is None or not (name in self._hosts or (not self._loopback and _is_address(name))):
            detail = "add the name to web.allowed_hosts if this page may be reached under it"
            raise Problem(421, "This host is not served here", detail)

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is not None and origin != f"{self._scheme}://{headers['host']}":
            raise Problem(403, "Requests from other sites are refused")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            page = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            if not page:
                raise Problem(403, "Requests from other sites are refused")

    async def _check_login(self, scope: Scope, headers: Headers) -> str | None:
        """The token of the session, if it is by one that the request is allowed."""
        path = scope["path"]
        if self._login is None or path in OPEN or path.startswith("/static/"):
            return None
        token = session_token(headers, self._cookie)
        if token is not None and self._login.valid(token):
            return token
        address = scope["client"][0] if scope.get("client") else ""
        wait = self._login.limit.wait_s(address)
        if wait > 0 and "authorization" in headers:
            raise too_many(wait)
        if "authorization" in headers and await run_in_threadpool(self._login.check_basic, headers["authorization"], address):
            return None
        if path == "/":
            raise Problem(303, "Log in", headers={"Location": "/login"})
        raise Problem(401, "Log in", "send the session cookie of /api/1/login, or HTTP Basic credentials")


def is_inference(path: str) -> bool:
    """Whether it belongs to the inference protocols, /v1 and /v2."""
    return path in ("/v1", "/v2") or path.startswith(("/v1/", "/v2/"))


def cookie_name(settings: WebSettings) -> str:
    """The `__Host-` prefix makes browsers insist on TLS, this very host and path `/`."""
    return "__Host-almena" if settings.tls else "almena"


def session_token(headers: Headers, name: str) -> str | None:
    """The session's token out of the cookies."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return None
    return morsel.value if morsel else None


def too_many(wait_s: float) -> Problem:
    """The answer to an address that has guessed too often."""
    return Problem(429, "Too many wrong passwords", f"try again in {wait_s:.0f} s", {"Retry-After": str(int(wait_s) + 1)})


def _check_body(scope: Scope, headers: Headers) -> int:
    """How many bytes the body may have. Only JSON and uploads are taken, which a plain form of another site cannot send unseen."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if is_inference(scope["path"]):  # its clients send binary bodies, some name no type at all; it changes nothing here
        large, limit, allowed = (
            kind in ("", "application/octet-stream"),
            MAX_INFERENCE_BYTES,
            "application/json or application/octet-stream",
        )
    else:
        large = kind == "multipart/form-data" or kind.startswith("image/")
        limit, allowed = MAX_IMAGE_BYTES if large else MAX_JSON_BYTES, "application/json, multipart/form-data or image/*"
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        raise Problem(413, "The body is too large", f"at most {limit} bytes for this content type")
    has_body = length != "0" or "transfer-encoding" in headers
    if scope["method"] not in SAFE and has_body and not large and kind != "application/json":
        raise Problem(415, "Unsupported content type", f"send {allowed}")
    return limit


def _limited(receive: Receive, limit: int) -> Receive:
    taken = 0

    async def receive_limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise Problem(413, "The body is too large", f"at most {limit} bytes for this content type")
        return message

    return receive_limited


def _hostname(header: str) -> str | None:
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".") or None
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
