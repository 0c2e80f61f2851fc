"""What devices are told: commands and desired settings."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import select

from agent.errors import UnknownError
from agent.serving import Problem
from fleet import courier, desired
from fleet.api.access import Who, needs
from fleet.api.context import Context
from fleet.api.models import Command, Commands, Desired, Difference, NewCommand, NewDesired, Revision, WantedState
from fleet.store.database import writing
from fleet.store.tables import commands


def commands_router(context: Context) -> APIRouter:
    """Commands."""
    router = APIRouter(tags=["commands"])

    @router.post("/devices/{device}/commands", status_code=201, response_model=Command, **needs("operator"))
    def send(device: str, command: NewCommand, caller: Who) -> Any:
        """Have a device do something. `state` goes from `queued` (for the broker) and `sent` to `done`, `failed` or `expired`."""
        with writing(context.engine) as connection:
            made = courier.order(connection, caller.name, device, command.name, command.args, time.time(), command.expires_s)
        context.courier.wake()
        return one(made)

    @router.get("/devices/{device}/commands", response_model=Commands, **needs("viewer"))
    def of_device(device: str, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> Any:
        """What a device was told, newest first."""
        wanted = select(commands).where(commands.c.device == device).order_by(commands.c.at.desc(), commands.c.id).limit(limit)
        with context.engine.connect() as connection:
            courier.known(connection, device)
            return {"commands": [dict(row._mapping) for row in connection.execute(wanted)]}

    @router.get("/commands/{command}", response_model=Command, **needs("viewer"))
    def one(command: str) -> Any:
        """What became of a command."""
        with context.engine.connect() as connection:
            found = connection.execute(select(commands).where(commands.c.id == command)).first()
        if found is None:
            raise UnknownError(f"there is no command {command}")
        return dict(found._mapping)

    return router


def desired_router(context: Context) -> APIRouter:
    """Desired settings."""
    router = APIRouter(tags=["settings"])

    @router.get("/devices/{device}/desired", response_model=Desired, **needs("viewer"))
    def wanted(device: str) -> Any:
        """What is wanted of a device, and what it reports."""
        with context.engine.connect() as connection:
            return desired.wanted(connection, device)

    @router.post("/devices/{device}/desired/diff", response_model=Difference, **needs("operator"))
    def difference(device: str, given: WantedState) -> Any:
        """What would change. Nothing does."""
        with context.engine.connect() as connection:
            before = desired.wanted(connection, device)["state"]
        _require(given.state)
        return {"changes": desired.changes(before or {}, given.state)}

    @router.put("/devices/{device}/desired", **needs("operator"))
    def want(device: str, given: NewDesired, caller: Who) -> Revision:
        """Want these settings of a device: they are checked, kept, and sent as a retained message."""
        if given.state is not None:
            _require(given.state)
        with writing(context.engine) as connection:
            revision = desired.want(connection, caller.name, device, given.state, time.time(), given.revision)
        context.courier.wake()
        return Revision(revision=revision)

    return router


def _require(state: dict[str, Any]) -> None:
    """Raises Problem 422, each thing that is wrong with its place."""
    wrong = [dict(zip(("field", "message"), line.split(": ", 1), strict=False)) for line in desired.problems(state)]
    if wrong:
        raise Problem(422, "These settings are not valid", "; ".join(": ".join(one.values()) for one in wrong), errors=wrong)
