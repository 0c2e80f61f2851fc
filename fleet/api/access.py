"""Who may do what: by a session of the console or an API key, and by the role that each endpoint names."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Scope

from agent.http import guard
from agent.http.guard import Valid, session_token
from agent.http.site import Site
from agent.serving import Problem
from fleet.accounts import Accounts, Caller, Role
from fleet.api.models import ProblemDocument

OPEN = ("/login", "/api/v1/login", "/healthz", "/readyz", "/favicon.ico")
ROLE = "x-role"
"""The member of an operation in the OpenAPI document that names the least role."""


class Guard(guard.Guard):
    """Lets in who has a session or a key, and tells the endpoints who it is."""

    def __init__(self, app: ASGIApp, site: Site, accounts: Accounts) -> None:
        super().__init__(app, site)
        self._accounts = accounts

    async def admit(self, scope: Scope, headers: Headers) -> Valid | None:
        """A key goes before a session."""
        path = scope["path"]
        if path in OPEN or path.startswith("/static/"):
            return None
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme:
            caller = await run_in_threadpool(self._accounts.by_key, secret.strip()) if scheme.lower() == "bearer" else None
            if caller is None:
                detail = "the hub does not know this key: it has ended, was taken back, or is not whole; keys are made under Accounts"
                raise Problem(401, "This API key is not valid", detail, {"WWW-Authenticate": "Bearer"})
            return self._known(scope, caller, lambda: self._accounts.by_key(secret.strip()) is not None)
        token = session_token(headers, self._site.cookie)
        caller = await run_in_threadpool(self._accounts.by_session, token) if token else None
        if caller is not None and token is not None:
            return self._known(scope, caller, lambda: self._accounts.by_session(token) is not None)
        if path == "/":
            raise Problem(303, "Log in", headers={"Location": "/login"})
        detail = "send the session cookie of /api/v1/login, or an API key as `Authorization: Bearer KEY`"
        raise Problem(401, "Log in", detail, {"WWW-Authenticate": "Bearer"})

    def _known(self, scope: Scope, caller: Caller, valid: Valid) -> Valid:
        scope.setdefault("state", {})["caller"] = caller
        return valid


def caller_of(request: Request) -> Caller:
    """Whom the guard has let in."""
    caller: Caller = request.state.caller
    return caller


Who = Annotated[Caller, Depends(caller_of)]


def require(caller: Caller, role: Role, what: str = "this") -> None:
    """Raises Problem where `what` is not for the caller."""
    if not caller.may(role):
        raise Problem(403, "Not for this role", f"{what} needs the role {role}, and {caller.name} is {caller.role}")


def needs(role: Role) -> dict[str, Any]:
    """What a route is declared with: the least role that may call it, and its errors."""

    def check(caller: Who) -> None:
        require(caller, role)

    errors: dict[int | str, Any] = {status: {"model": ProblemDocument} for status in (401, 403, 404, 409, 422)}
    return {"dependencies": [Depends(check)], "openapi_extra": {ROLE: role}, "responses": errors}
