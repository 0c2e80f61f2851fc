"""Logging in, users, keys, and who changed what."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agent.http.guard import session_token
from agent.http.passwords import SESSION_S, too_many
from agent.http.site import Site
from agent.serving import Problem
from fleet.api.access import Who, needs
from fleet.api.context import Context
from fleet.api.models import (
    ChangedUser,
    Credentials,
    Journal,
    Keys,
    MadeKey,
    Me,
    NewKey,
    NewUser,
    OwnPassword,
    ProblemDocument,
    Users,
)
from fleet.store.tables import audit


def session_router(context: Context) -> APIRouter:
    """Sessions."""
    router = APIRouter(tags=["session"])
    site, accounts = Site.of(context.settings.web), context.accounts

    @router.post("/login", status_code=204, responses={401: {"model": ProblemDocument}, 429: {"model": ProblemDocument}})
    async def log_in(credentials: Credentials, request: Request) -> Response:
        """Begin a session; its token comes as a cookie. After five wrong passwords an address has to wait."""
        address = request.client.host if request.client else ""
        if (wait := accounts.limit.wait_s(address)) > 0:
            raise too_many(wait)
        token = await run_in_threadpool(accounts.log_in, credentials.username, credentials.password, address)
        if token is None:
            raise Problem(401, "Wrong user or password")
        answer = Response(status_code=204)
        answer.set_cookie(site.cookie, token, max_age=math.floor(SESSION_S), httponly=True, samesite="strict", secure=site.tls)
        return answer

    @router.post("/logout", status_code=204, **needs("viewer"))
    def log_out(request: Request) -> Response:
        """End the session."""
        if token := session_token(request.headers, site.cookie):
            accounts.log_out(token)
        answer = Response(status_code=204)
        answer.delete_cookie(site.cookie, httponly=True, samesite="strict", secure=site.tls)
        return answer

    @router.get("/me", **needs("viewer"))
    def me(caller: Who) -> Me:
        """Who asks."""
        return Me(name=caller.name, role=caller.role)

    @router.put("/me/password", status_code=204, **needs("viewer"))
    def own_password(given: OwnPassword, request: Request, caller: Who) -> Response:
        """Change one's own password; other sessions of this person end. Only from a session, with the password that holds."""
        address, token = request.client.host if request.client else "", session_token(request.headers, site.cookie)
        if caller.is_key or token is None:
            raise Problem(403, "Not with a key", "people change their passwords after they have logged in")
        if (wait := accounts.limit.wait_s(address)) > 0:
            raise too_many(wait)
        if not accounts.change_own_password(caller.name, given.old, given.new, token, address):
            raise Problem(422, "The old password is wrong")
        return Response(status_code=204)

    return router


def accounts_router(context: Context) -> APIRouter:
    """Users and keys."""
    router = APIRouter(tags=["accounts"])
    accounts = context.accounts

    @router.get("/users", response_model=Users, **needs("admin"))
    def users() -> Any:
        """All users."""
        return {"users": accounts.users()}

    @router.post("/users", status_code=204, **needs("admin"))
    def add_user(user: NewUser, caller: Who) -> Response:
        """Add a person."""
        accounts.add_user(caller.name, user.name, user.password, user.role)
        return Response(status_code=204)

    @router.patch("/users/{name}", status_code=204, **needs("admin"))
    def change_user(name: str, user: ChangedUser, caller: Who) -> Response:
        """Another password or role; running sessions of this person end."""
        accounts.change_user(caller.name, name, password=user.password, role=user.role)
        return Response(status_code=204)

    @router.delete("/users/{name}", status_code=204, **needs("admin"))
    def remove_user(name: str, caller: Who) -> Response:
        """Remove a person; their sessions end. The last admin stays."""
        accounts.remove_user(caller.name, name)
        return Response(status_code=204)

    @router.get("/keys", response_model=Keys, **needs("admin"))
    def keys() -> Any:
        """All API keys."""
        return {"keys": accounts.keys()}

    @router.post("/keys", status_code=201, **needs("admin"))
    def add_key(key: NewKey, caller: Who) -> MadeKey:
        """Make a key. It is shown in this answer and never again."""
        made, secret = accounts.add_key(caller.name, key.name, key.role, key.expires_at)
        return MadeKey(id=made, key=secret)

    @router.delete("/keys/{key}", status_code=204, **needs("admin"))
    def remove_key(key: str, caller: Who) -> Response:
        """Programs that use it are refused from now on."""
        accounts.remove_key(caller.name, key)
        return Response(status_code=204)

    return router


def journal_router(context: Context) -> APIRouter:
    """Who changed what."""
    router = APIRouter(tags=["audit"])

    @router.get("/audit", response_model=Journal, **needs("admin"))
    def journal(limit: Annotated[int, Query(ge=1, le=500)] = 100, before: Annotated[int | None, Query(ge=1, lt=1 << 63)] = None) -> Any:
        """Changes and logins, newest first."""
        wanted = select(audit).order_by(audit.c.id.desc()).limit(limit + 1)
        if before is not None:
            wanted = wanted.where(audit.c.id < before)
        with context.engine.connect() as connection:
            found = [dict(row._mapping) for row in connection.execute(wanted)]
        return {"audit": found[:limit], "next": str(found[limit - 1]["id"]) if len(found) > limit else None}

    return router
