"""What devices ask at the door about shared identities."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ValidationError
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from agent.serving import Problem, body_of
from agent.sharing import vouching
from agent.sharing.protocol import MAX_MESSAGE, PREFIX, Box, Receipts, Sync
from fleet.door.server import Device
from fleet.identities import ledger
from fleet.parameters import Number
from fleet.store.database import writing

M = TypeVar("M", bound=BaseModel)


class _Sharing:
    """What the routes do, in threads that may wait for the database."""

    def __init__(self, engine: Engine, ca_file: Path) -> None:
        self._engine = engine
        self._ca = ca_file.read_bytes()

    def sync(self, device: str, said: Sync) -> str:
        _require(said.key.device == device, "the key is another device's")
        vouching.require(said.key.signed, vouching.KEY, said.key.text, device, self._ca)
        with writing(self._engine) as connection:
            return ledger.sync(connection, device, said, time.time()).model_dump_json()

    def keep(self, device: str, box: Box) -> None:
        with writing(self._engine) as connection:
            ledger.put(connection, device, box, time.time())

    def prove(self, device: str, given: Receipts) -> None:
        for one in given.receipts:
            _require(one.receipt.device == device and one.receipt.reason != "left", "the receipt is another device's, or of no erasure")
            vouching.require(one.signed, vouching.RECEIPT, one.receipt.text, device, self._ca)
        with writing(self._engine) as connection:
            ledger.prove(connection, device, given.receipts, time.time())


def sharing_router(engine: Engine, ca_file: Path) -> APIRouter:
    """The routes; `ca_file` is the CA of the devices."""
    router = APIRouter(prefix=PREFIX)
    sharing = _Sharing(engine, ca_file)

    @router.post("/sync")
    async def sync(device: Device, request: Request) -> Response:
        """What a device has and wants; what it has to do is the answer."""
        said = await _body(request, Sync)
        return Response(await run_in_threadpool(sharing.sync, device, said), media_type="application/json")

    @router.put("/boxes", status_code=204)
    async def put(device: Device, request: Request) -> None:
        """A box for another device."""
        await run_in_threadpool(sharing.keep, device, await _body(request, Box))

    @router.get("/boxes/{identity}/{revision}")
    def get(device: Device, identity: str, revision: Number) -> Response:
        """The box for this device."""
        with engine.connect() as connection:
            return Response(ledger.box(connection, device, identity, revision), media_type="application/json")

    @router.post("/receipts", status_code=204)
    async def receipts(device: Device, request: Request) -> None:
        """Of erasures that the hub has asked about."""
        await run_in_threadpool(sharing.prove, device, await _body(request, Receipts))

    @router.post("/leave", status_code=204)
    def leave(device: Device) -> None:
        """This device does not share."""
        with writing(engine) as connection:
            ledger.leave(connection, device, time.time())

    return router


async def _body(request: Request, kind: type[M]) -> M:
    try:
        return kind.model_validate_json(await body_of(request, MAX_MESSAGE))
    except ValidationError as error:
        raise Problem(422, "Not a message of this version", "use an agent of the hub's version") from error


def _require(right: bool, detail: str) -> None:
    if not right:
        raise Problem(403, "Not this device's to say", detail)
