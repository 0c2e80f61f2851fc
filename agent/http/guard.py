"""Stands in front of every request: which Host, which Origin, how large, who; and adds security headers to every answer."""

from __future__ import annotations

import ipaddress
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.config import LOOPBACK
from agent.http.site import Site
from agent.serving import Problem, error_response

SAFE = ("GET", "HEAD", "OPTIONS")
MAX_JSON_BYTES = 64 * 1024
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


@dataclass(frozen=True)
class Body:
    """What a request may send besides JSON: `other` says that its content type is such, `limit` how many bytes, `allowed` names all."""

    other: bool = False
    limit: int = MAX_JSON_BYTES
    allowed: str = "application/json"


Valid = Callable[[], bool]
"""Whether the session that a request came with is still open. It may wait for a database, and is called in a thread."""


class Guard(ABC):
    """ASGI middleware. Pages of other sites reach nothing here: not by DNS rebinding (Host), not by forgery (Origin, Fetch Metadata).

    A derived class says who may do what.
    """

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site
        named = () if site.loopback else (site.host, socket.gethostname().lower(), f"{socket.gethostname().lower()}.local")
        self._hosts = {*LOOPBACK, *named, *(host.lower() for host in site.allowed_hosts)}

    @abstractmethod
    async def admit(self, scope: Scope, headers: Headers) -> Valid | None:
        """Raises Problem for who may not do this. A live answer ends when the Valid that is returned says so."""

    def body(self, path: str, kind: str) -> Body:
        """What may be sent to a path, given the content type."""
        return Body()

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
                if self._site.tls:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
                headers.setdefault("Cache-Control", "no-cache" if scope["path"].startswith("/static/") else "no-store")
            await send(message)

        headers = Headers(scope=scope)
        try:
            if b"%00" in scope.get("raw_path", b"") + scope["query_string"]:
                raise Problem(400, "The address holds the character NUL")
            self._check_host(headers)
            self._check_origin(scope, headers)
            limit = self._check_body(scope, headers)
            valid = await self.admit(scope, headers)
        except Problem as problem:
            await error_response(problem)(scope, receive, send_guarded)
            return
        await self._app(scope, _limited(receive, limit), _while_valid(valid, send_guarded) if valid else send_guarded)

    def _check_host(self, headers: Headers) -> None:
        """A name that somebody else's DNS answers for is never ours; an address literal cannot be rebound."""
        given = headers.getlist("host")
        name = _hostname(given[0]) if len(given) == 1 else None
        if name is None or not (name in self._hosts or (not self._site.loopback and _is_address(name))):
            detail = "add the name to web.allowed_hosts if this page may be reached under it"
            raise Problem(421, "This host is not served here", detail)

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is not None and origin != f"{self._site.scheme}://{headers['host']}":
            raise Problem(403, "Requests from other sites are refused")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            page = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            if not page:
                raise Problem(403, "Requests from other sites are refused")

    def _check_body(self, scope: Scope, headers: Headers) -> int:
        """How many bytes the body may have. Only what `body` names is taken, which a plain form of another site cannot send unseen."""
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        rule = self.body(scope["path"], kind)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > rule.limit:
            raise Problem(413, "The body is too large", f"at most {rule.limit} bytes for this content type")
        has_body = length != "0" or "transfer-encoding" in headers
        if scope["method"] not in SAFE and has_body and not rule.other and kind != "application/json":
            raise Problem(415, "Unsupported content type", f"send {rule.allowed}")
        return rule.limit


def session_token(headers: Headers, name: str) -> str | None:
    """The session's token out of the cookies, among which another program of the same host may have some that no standard knows."""
    return cookie_parser(headers.get("cookie", "")).get(name)


def _while_valid(valid: Valid, send: Send) -> Send:
    """Ends live answers with the session they belong to."""
    checked, over = time.monotonic(), False

    async def send_while_valid(message: Message) -> None:
        nonlocal checked, over
        if over:
            return
        if message.get("more_body") and time.monotonic() - checked > SESSION_CHECK_S:
            checked, over = time.monotonic(), not await run_in_threadpool(valid)
        await send({"type": "http.response.body"} if over else message)

    return send_while_valid


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
