"""Where devices leave pictures. What is no whole JPEG of a bounded size is not taken."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import FiniteFloat
from sqlalchemy import Connection, Engine
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agent import jpeg
from agent.serving import Problem, body_of
from agent.settings import Name
from fleet.door.server import Device
from fleet.parameters import Number
from fleet.store import pictures
from fleet.store.database import writing
from fleet.store.pictures import TooEarlyError, TooLateError

LARGEST, LARGEST_SNAPSHOT = 256 * 1024, 8 * 1024 * 1024
TOO_EARLY = 425
SNAPSHOT = re.compile(r"s-[0-9a-f]{16}")


@dataclass
class Refusals:
    """Pictures that were not taken, since this hub has started."""

    count: int = 0


def pictures_router(engine: Engine, refusals: Refusals) -> APIRouter:
    """Pictures of events, and snapshots. A device leaves them under its own name, which is that of its certificate."""
    router = APIRouter()

    async def take(request: Request, limit: int, keep: Callable[[Connection, bytes], None]) -> Response:
        try:
            picture = await _picture(request, limit)
            await run_in_threadpool(_written, engine, lambda connection: keep(connection, picture))
        except Problem as problem:
            refusals.count += problem.status_code != TOO_EARLY
            raise
        return Response(status_code=204)

    @router.put("/events/{spool}/{seq}/picture", status_code=204)
    async def of_event(device: Device, spool: Annotated[str, Path(max_length=64)], seq: Number, request: Request) -> Response:
        def keep(connection: Connection, picture: bytes) -> None:
            pictures.keep(connection, device, spool, seq, picture, time.time())

        return await take(request, LARGEST, keep)

    @router.put("/snapshots/{name}", status_code=204)
    async def snapshot(device: Device, name: str, stream: Annotated[Name, Query()], at: FiniteFloat, request: Request) -> Response:
        if not SNAPSHOT.fullmatch(name):
            raise Problem(422, "The request is not valid", "a snapshot is named s- and 16 hexadecimal digits")

        def keep(connection: Connection, picture: bytes) -> None:
            pictures.keep_snapshot(connection, device, name, stream, at, picture, time.time())

        return await take(request, LARGEST_SNAPSHOT, keep)

    return router


async def _picture(request: Request, limit: int) -> bytes:
    """Raises Problem."""
    picture = await body_of(request, limit)
    if not jpeg.is_whole(picture):
        raise Problem(422, "Not a picture", "this is no JPEG, or not the whole of one")
    return picture


def _written(engine: Engine, keep: Callable[[Connection], None]) -> None:
    """Raises Problem."""
    try:
        with writing(engine) as connection:
            keep(connection)
    except TooEarlyError as error:
        raise Problem(TOO_EARLY, "Too early", str(error)) from error
    except TooLateError as error:
        raise Problem(410, "Too late", str(error)) from error
