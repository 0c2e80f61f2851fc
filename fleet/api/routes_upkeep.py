"""Keeping a fleet in order: many devices at once, removal, maintenance, and what could not be stored."""

from __future__ import annotations

import math
import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import Connection, and_, func, or_, select, update
from starlette.responses import Response

from agent.serving import Problem
from fleet import courier, journal, maintenance, removal
from fleet.accounts import Caller
from fleet.api.access import Who, needs, require
from fleet.api.context import Context
from fleet.api.models import DevicePatch
from fleet.api.models_upkeep import Changed, DeadLetters, DevicesPatch, GivenUp, MadeWindow, NewMaintenance, Windows
from fleet.identities import ledger
from fleet.parameters import Number
from fleet.store import device_rows, spools
from fleet.store.database import writing
from fleet.store.tables import dead_letters, devices

NAMES_AT_ONCE = 500
SHOWN_BYTES = 2000


def placing_router(context: Context) -> APIRouter:
    """What people say of devices, and the removal of one."""
    router = APIRouter(tags=["upkeep"])

    @router.patch("/devices/{device}", status_code=204, **needs("operator"))
    def describe(device: str, given: DevicePatch, caller: Who) -> Response:
        """Say where a device stands and what it is for."""
        values = given.model_dump(exclude_none=True)
        with writing(context.engine) as connection:
            courier.known(connection, device)
            if values:
                _may_join(connection, caller, given.site)
                connection.execute(update(devices).where(devices.c.device == device).values(values))
                if given.site is not None:
                    ledger.moved(connection, [device], time.time())
                journal.note(connection, caller.name, "describe", device, values)
        return Response(status_code=204)

    @router.patch("/devices", response_model=Changed, **needs("operator"))
    def describe_many(given: DevicesPatch, caller: Who) -> Any:
        """Say of many devices where they stand and what they are for; those that are not there are left out."""
        values = given.model_dump(include={"site", "group"}, exclude_none=True)
        if not values:
            raise Problem(422, "The request is not valid", "give a site or a group")
        names = sorted(set(given.devices))
        with writing(context.engine) as connection:
            _may_join(connection, caller, given.site)
            changed = 0
            for start in range(0, len(names), NAMES_AT_ONCE):
                some = names[start : start + NAMES_AT_ONCE]
                changed += connection.execute(update(devices).where(devices.c.device.in_(some)).values(values)).rowcount
                if given.site is not None:
                    ledger.moved(connection, some, time.time())
            target = names[0] if len(names) == 1 else f"{changed} devices"
            journal.note(connection, caller.name, "describe", target, {**values, "devices": names[:100]})
        return {"changed": changed}

    @router.post("/devices/{device}/losses/give-up", response_model=GivenUp, **needs("operator"))
    def give_up(device: str, caller: Who) -> Any:
        """Count what is missing of a device as lost for good, so that its alert ends. What comes all the same is taken."""
        with writing(context.engine) as connection:
            courier.known(connection, device)
            device_rows.hold(connection, device)
            lanes = spools.give_up(connection, device, time.time())
            if lanes:
                lost = sum(count for lane, count in lanes.items() if lane != "telemetry")
                device_rows.count_losses(connection, {device: lost})
                journal.note(connection, caller.name, "missing give up", device, lanes)
        return {"given_up": lanes}

    @router.delete("/devices/{device}", status_code=204, **needs("admin"))
    def remove(device: str, caller: Who) -> Response:
        """Forget a device that does not speak any more. What it saw stays; if it speaks again, it is a new one."""
        removal.remove(context.engine, context.link, caller.name, device)
        return Response(status_code=204)

    return router


def maintenance_router(context: Context) -> APIRouter:
    """Where somebody works."""
    router = APIRouter(tags=["upkeep"])

    @router.get("/maintenance", response_model=Windows, **needs("viewer"))
    def windows() -> Any:
        """Where somebody works, or will."""
        with context.engine.connect() as connection:
            return {"maintenance": maintenance.windows(connection, time.time())}

    @router.post("/maintenance", status_code=201, **needs("operator"))
    def begin(given: NewMaintenance, caller: Who) -> MadeWindow:
        """Tell nobody of alerts of a device, a site or a group before `ends`; those that still fire then are told."""
        with writing(context.engine) as connection:
            made = maintenance.begin(connection, caller.name, given.kind, given.name, given.begins, given.ends, given.reason)
        return MadeWindow(id=made)

    @router.delete("/maintenance/{window}", status_code=204, **needs("operator"))
    def end(window: Number, caller: Who) -> Response:
        """It is over now."""
        with writing(context.engine) as connection:
            maintenance.end(connection, caller.name, window)
        return Response(status_code=204)

    return router


def refused_router(context: Context) -> APIRouter:
    """Messages that could not be stored."""
    router = APIRouter(tags=["upkeep"])

    @router.get("/dead-letters", response_model=DeadLetters, **needs("admin"))
    def refused(
        device: str | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        before: Annotated[str | None, Query(max_length=200, description="`next` of the page before.")] = None,
    ) -> Any:
        """Messages that could not be stored, the last to come first, each once."""
        letters = dead_letters.c
        size = func.length(letters.payload).label("bytes")
        names = (letters.digest, letters.device, letters.topic, letters.reason, letters.first_at, letters.last_at, letters.times)
        wanted = select(*names, letters.payload, size).order_by(letters.last_at.desc(), letters.digest).limit(limit + 1)
        if device is not None:
            wanted = wanted.where(letters.device == device)
        if before is not None:
            at, digest = _place(before)
            wanted = wanted.where(or_(letters.last_at < at, and_(letters.last_at == at, letters.digest > digest)))
        with context.engine.connect() as connection:
            found = [dict(row._mapping) for row in connection.execute(wanted)]
        for row in found:
            row["payload"] = row["payload"][:SHOWN_BYTES].decode(errors="replace")
        last = found[limit - 1] if len(found) > limit else None
        return {"dead_letters": found[:limit], "next": f"{last['last_at']!r}|{last['digest']}" if last else None}

    return router


def _may_join(connection: Connection, caller: Caller, site: str | None) -> None:
    """A device that joins a site which shares identities gets them: only an admin brings one there. Raises Problem."""
    if site and ledger.shares(connection, site):
        require(caller, "admin", f"the site {site} shares identities: to bring devices there")


def _place(cursor: str) -> tuple[float, str]:
    at, _, digest = cursor.partition("|")
    try:
        if not math.isfinite(float(at)):
            raise ValueError(cursor)
        return float(at), digest
    except ValueError as error:
        raise Problem(422, "The cursor is not one of ours", "give `next` of the page before, unchanged") from error
