"""Identities of other devices, for the control API: what the gallery shares, seals, takes and erases. Records in, records out."""

from __future__ import annotations

import logging
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.errors import AlmenaError
from agent.outbox import Outbox
from agent.serving import Problem, body_of
from agent.sharing.protocol import MAX_MESSAGE, MOST_IDENTITIES, Base64, IdentityId, Label, Reason
from agent.sharing.sealing import SealError
from agent.vision.erasure import erase
from agent.vision.gallery import Gallery, UnknownIdentityError
from agent.vision.gallery_store import GalleryError

log = logging.getLogger(__name__)

Opened = Callable[[], AbstractContextManager[Gallery]]


class SealRequest(BaseModel):
    """Seal what the label says for the owner of `public`."""

    model_config = ConfigDict(extra="forbid")
    label: Label
    public: Base64


class OpenRequest(BaseModel):
    """Take what is in a box, whose sender was checked."""

    model_config = ConfigDict(extra="forbid")
    label: Label
    sealed: Base64


class EraseRequest(BaseModel):
    """Erase an identity for that reason."""

    model_config = ConfigDict(extra="forbid")
    id: IdentityId
    reason: Reason


class SharedFaces:
    """Over the gallery that `opened` gives."""

    def __init__(self, opened: Opened, outbox: Outbox) -> None:
        self._opened = opened
        self._outbox = outbox

    def state(self) -> dict[str, Any]:
        """The public key, what was enrolled here, what came from others, and the erasures that everything has followed, the newest last."""
        with self._opened() as gallery:
            known = gallery.identities()
            under_way = {receipt.id for receipt in gallery.receipts(unfollowed=True)}
            erased = [asdict(receipt) for receipt in gallery.receipts() if receipt.id not in under_way]
            own = ("id", "name", "consent", "expires_at", "revision", "pictures")
            return {
                "public": b64encode(gallery.exchange.public_key).decode(),
                "own": [{name: getattr(one, name) for name in own} for one in known if not one.origin and one.pictures],
                "held": [{"id": one.id, "revision": one.revision} for one in known if one.origin],
                "receipts": erased[-MOST_IDENTITIES:],
            }

    def seal(self, asked: SealRequest) -> bytes:
        """A box. Raises UnknownIdentityError, GalleryError, SealError."""
        with self._opened() as gallery:
            return gallery.exchange.seal(asked.label, b64decode(asked.public))

    def take(self, given: OpenRequest) -> str:
        """Why it was not taken, or nothing."""
        try:
            with self._opened() as gallery:
                gallery.exchange.take(given.label, b64decode(given.sealed))
        except (GalleryError, SealError) as error:
            log.warning("the identity %s from %s is not taken: %s", given.label.id, given.label.origin, error)
            return str(error)
        log.info("the identity %s came from %s", given.label.id, given.label.origin)
        return ""

    def erase(self, asked: EraseRequest) -> dict[str, Any]:
        """The receipt; also of one that is not here, whose box is refused from now on, unless the device only leaves a site."""
        with self._opened() as gallery:
            try:
                receipt, _ = erase(gallery, self._outbox, asked.id, asked.reason)
            except UnknownIdentityError:
                gallery.exchange.renounce(asked.id, asked.reason)
                receipt = gallery.erase(asked.id)
            return asdict(receipt)


def sharing_routes(shared: Callable[[], SharedFaces]) -> list[Route]:
    """Of the control API, below /sharing. Vision trusts the uplink that boxes are from whom their labels say."""

    def state(_request: Request) -> Response:
        return JSONResponse(shared().state())

    async def seal(request: Request) -> Response:
        asked = await _body(request, SealRequest)
        try:
            box = await run_in_threadpool(shared().seal, asked)
        except AlmenaError as error:
            raise Problem(409, "Not sealed", str(error)) from error
        return JSONResponse({"sealed": b64encode(box).decode()})

    async def take(request: Request) -> Response:
        return JSONResponse({"declined": await run_in_threadpool(shared().take, await _body(request, OpenRequest))})

    async def erase_one(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(shared().erase, await _body(request, EraseRequest)))

    return [
        Route("/sharing", state, methods=["GET"]),
        Route("/sharing/seal", seal, methods=["POST"]),
        Route("/sharing/take", take, methods=["POST"]),
        Route("/sharing/erase", erase_one, methods=["POST"]),
    ]


async def _body(request: Request, kind: type[Any]) -> Any:
    try:
        return kind.model_validate_json(await body_of(request, MAX_MESSAGE))
    except ValidationError as error:
        raise Problem(422, "Not a request of this version", "; ".join(one["msg"] for one in error.errors(include_input=False))) from error
