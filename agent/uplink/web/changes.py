"""Changes that are asked for over the page or REST are recorded in the audit lane, or not made."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.concurrency import contextmanager_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agent.audit import AuditLane, audited, record
from agent.outbox import OutboxError, OutboxFullError
from agent.serving import Problem

log = logging.getLogger(__name__)

ID = re.compile(r"[a-z]-[0-9a-f]{1,32}")


async def changed(outbox: AuditLane, request: Request, action: str, act: Callable[[], Awaitable[Response]], **detail: Any) -> Response:
    """The answer of `act`, which is called only if that can be recorded. Raises Problem 507 (audit lane or disk full) or 503.

    The ids in the path are recorded, and the one in the answer; whatever does not look like an id may be a name, and is not.
    """
    actor = "page" if "sec-fetch-site" in request.headers else "rest"
    ids = [value for value in request.path_params.values() if ID.fullmatch(value)]
    detail |= {"id": ids[0]} if ids else {}
    try:
        async with contextmanager_in_threadpool(audited(outbox, actor, action, **detail)) as entry:
            answer = await act()
            if answer.status_code >= 400:
                entry.outcome = "failed"
                entry.detail["status"] = answer.status_code
            elif made := _made(answer):
                entry.detail["became" if ids else "id"] = made
    except OutboxFullError as error:
        raise Problem(507, "Not done, because it cannot be recorded", str(error)) from error
    except OutboxError as error:
        raise Problem(503, "Not done, because it cannot be recorded", str(error)) from error
    return answer


def recorded(outbox: AuditLane) -> Callable[[str, int], None]:
    """Takes an outcome of logins, and how many had it. One that cannot be recorded is logged: the page is needed most when something is
    full."""

    def login(outcome: str, count: int) -> None:
        try:
            record(outbox, "page", "login", outcome, {"count": count} if count > 1 else {})
        except OutboxError as error:
            log.error("a login (%s) could not be recorded: %s", outcome, error)

    return login


def _made(answer: Response) -> str | None:
    """The id of what was made."""
    if answer.status_code != 201:
        return None
    found = json.loads(bytes(answer.body)).get("id", "")
    return found if ID.fullmatch(found) else None
