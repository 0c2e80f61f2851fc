"""Pictures of events, snapshots and live pictures, for people whose role may see them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from agent.serving import Problem
from fleet import courier, journal
from fleet.accounts import Role
from fleet.api.access import Who, needs
from fleet.api.context import Context
from fleet.api.models_pictures import DoorState, LiveState, LiveView, NewLiveView, Snapshots
from fleet.door.live import COMES_WITHIN_S, LONGEST_S, MOST_LOOKING, MOST_VIEWERS, View, Views
from fleet.parameters import Number
from fleet.store import pictures
from fleet.store.database import writing
from fleet.store.tables import commands

log = logging.getLogger(__name__)

BOUNDARY = "almena-picture"
ENDED = ("failed", "expired")


def _viewers(context: Context) -> Role:
    """The least role that may see pictures, by the hub's setting `door.viewers`."""
    return context.settings.door.viewers if context.settings.door else "operator"


def pictures_router(context: Context) -> APIRouter:
    """Pictures that devices have sent."""
    router = APIRouter(tags=["pictures"])
    role = _viewers(context)
    declared = needs(role)
    jpeg = {**declared, "responses": {**declared["responses"], 200: {"content": {"image/jpeg": {}}}}}

    @router.get("/door", response_model=DoorState, **needs("viewer"))
    def state() -> Any:
        """Whether this hub has a door, by which devices can bring pictures, and who may see them."""
        return {"open": context.settings.door is not None, "viewers": role}

    @router.get("/events/{device}/{spool}/{seq}/picture", response_class=Response, **jpeg)
    def of_event(device: str, spool: str, seq: Number) -> Response:
        """The picture of an event, which its device was allowed to send."""
        return _picture(context, device, spool, seq)

    @router.get("/devices/{device}/snapshots", response_model=Snapshots, **needs(role))
    def snapshots(device: str) -> Any:
        """What a device has sent on the command `snapshot`, newest first."""
        with context.engine.connect() as connection:
            courier.known(connection, device)
            return {"snapshots": pictures.snapshots(connection, device)}

    @router.get("/devices/{device}/snapshots/{name}", response_class=Response, **jpeg)
    def snapshot(device: str, name: str) -> Response:
        """One of them."""
        return _picture(context, device, name, pictures.SNAPSHOT)

    return router


def live_pictures_router(context: Context, stopping: Callable[[], bool]) -> APIRouter:
    """Live pictures: while somebody looks."""
    router = APIRouter(tags=["pictures"])
    views, role = context.views, _viewers(context)
    opening = threading.Semaphore(MOST_VIEWERS)

    @router.post("/devices/{device}/live", response_model=LiveView, **needs(role))
    async def begin(device: str, given: NewLiveView, caller: Who) -> Any:
        """Have a device show a stream; answers once it does. The picture is at `live-pictures/{id}`, for `seconds` at most."""
        if context.settings.door is None:
            raise Problem(409, "This hub has no door", "live pictures need `door` in the hub's settings")
        if not opening.acquire(blocking=False):
            raise Problem(503, "Too many live pictures", f"{MOST_VIEWERS} are about to begin; try again in a moment")
        try:
            view = await run_in_threadpool(_opened, context, views, device, given.stream, caller.name)
        finally:
            opening.release()
        return {"id": view.id, "seconds": LONGEST_S}

    @router.get("/live-views/{view}", response_model=LiveState, **needs(role))
    def how(view: str) -> Any:
        """Whether it goes on: a picture alone does not show that it is the last one."""
        found = views.get(view)
        return {"ended": found.ended if found else "it has ended", "silent_s": found.silent_s if found else 0.0}

    @router.get("/live-pictures/{view}", response_class=Response, **needs(role))
    def watch(view: str, caller: Who) -> Response:
        """Motion JPEG, until the viewer leaves or the view ends."""
        found = views.get(view)
        if found is None or found.ended:
            raise Problem(404, "This live picture has ended", "begin another")
        if found.full or views.full:
            raise Problem(503, "Too many viewers", f"{MOST_VIEWERS} people look at this picture already, or {MOST_LOOKING} at others")
        parts = _parts(context, found, caller.name, stopping)
        return StreamingResponse(parts, media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}")

    return router


def _picture(context: Context, device: str, spool: str, seq: int) -> Response:
    with context.engine.connect() as connection:
        return Response(pictures.jpeg_of(connection, device, spool, seq), media_type="image/jpeg")


def _opened(context: Context, views: Views, device: str, stream: str, by: str) -> View:
    """A view that the device serves. Raises UnknownError, Problem."""
    with context.engine.connect() as connection:
        courier.known(connection, device)
    view, new = views.open(device, stream)
    command = ""
    try:
        with writing(context.engine) as connection:
            journal.note(connection, by, "live begin", device, {"stream": stream})
            if new:
                args = {"stream": stream, "token": view.token, "seconds": LONGEST_S}
                command = courier.order(connection, by, device, "live", args, time.time(), COMES_WITHIN_S)
    except BaseException:
        view.end("it could not begin")
        raise
    context.courier.wake()
    deadline = time.monotonic() + COMES_WITHIN_S
    while not view.wait_met(0.3):
        why = _refused(context, command) or view.ended
        if why or time.monotonic() > deadline:
            view.end(why or "the device does not come")
            raise Problem(
                409, "There is no live picture", why or "the device does not answer; is it online, and may it reach the hub's door?"
            )
    return view


def _refused(context: Context, command: str) -> str:
    """Why the device does not come, if it has said so."""
    with context.engine.connect() as connection:
        found = connection.execute(select(commands.c.state, commands.c.reply).where(commands.c.id == command)).first()
    if found is None or found.state not in ENDED:
        return ""
    return str((found.reply or {}).get("detail") or "the device did not answer in time")


async def _parts(context: Context, view: View, by: str, stopping: Callable[[], bool]) -> AsyncIterator[bytes]:
    number, began = 0, time.monotonic()
    view.join()
    try:
        while not stopping() and view.wanted():
            found = await run_in_threadpool(view.next, number, 1.0)
            if found is not None:
                number, picture = found
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                yield head.encode() + picture + b"\r\n"
    finally:
        view.leave()
        ended = partial(_note_end, context, view, by, time.monotonic() - began)
        asyncio.get_running_loop().run_in_executor(None, ended)  # nothing is waited for: whoever looked may be gone


def _note_end(context: Context, view: View, by: str, seconds: float) -> None:
    try:
        with writing(context.engine) as connection:
            journal.note(connection, by, "live end", view.device, {"stream": view.stream, "seconds": round(seconds, 1)})
    except SQLAlchemyError as error:
        log.error("the end of a live picture could not be recorded: %s", error)
