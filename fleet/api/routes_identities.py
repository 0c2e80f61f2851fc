"""Identities that devices share: who is known where, and erasure with a receipt from each device."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from agent.sharing.protocol import Receipt
from fleet.api.access import Who, needs
from fleet.api.context import Context
from fleet.api.models import Label, Request
from fleet.identities import ledger, listing
from fleet.store.database import writing


class Copy(BaseModel):
    """An identity on one device."""

    device: str
    state: Literal["there", "waiting to be sealed", "waiting to be fetched", "declined", "erased", "erasing"]
    since: float | None = Field(description="When the box or the receipt came, or the erasure was ordered.")
    detail: str = Field(description="Why a device declines it.")
    receipt: Receipt | None = Field(description="Signed by the device; the signature stands in `proof`.")
    proof: str | None
    certificate: str | None


class Shared(BaseModel):
    """An identity. Once it is erased, name and consent are empty."""

    id: str
    name: str
    consent: str
    origin: str = Field(description="The device that enrolled the person.")
    site: str
    expires_at: float | None
    revision: int
    pictures: int
    at: float
    state: Literal["shared", "erasing", "erased"]
    erase_at: float | None
    erase_by: str
    copies: list[Copy]


class SharedList(BaseModel):
    """A page of them."""

    identities: list[Shared]
    next: str | None


class SharingSite(BaseModel):
    """A site, and the devices there whose own settings let them share."""

    site: str
    enabled: bool
    by: str
    at: float | None
    devices: list[str]


class Sharing(BaseModel):
    """`door`: whether this hub has one, without which nothing is shared."""

    door: bool
    sites: list[SharingSite]


class SharingChange(Request):
    """Whether the devices of a site share identities."""

    site: Annotated[Label, Field(min_length=1)]
    enabled: bool


def identities_router(context: Context) -> APIRouter:
    """Routes; photographs and templates are not here: the hub cannot open what it keeps."""
    router = APIRouter(tags=["identities"])

    @router.get("/identities", response_model=SharedList, **needs("operator"))
    def identities(
        search: Annotated[str, Query(max_length=200)] = "",
        site: str | None = None,
        device: Annotated[str | None, Query(description="Which has it, or is to have it.")] = None,
        state: Literal["shared", "erasing", "erased"] | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        after: Annotated[int, Query(ge=0, lt=1 << 31, description="`next` of the page before.")] = 0,
    ) -> Any:
        """Who is shared, by name; erased ones last."""
        with context.engine.connect() as connection:
            found = listing.identities_of(connection, search, site, device, state, limit + 1, after)
        return {"identities": found[:limit], "next": str(after + limit) if len(found) > limit else None}

    @router.get("/identities/{identity}", response_model=Shared, **needs("operator"))
    def one(identity: str) -> Any:
        """One of them."""
        with context.engine.connect() as connection:
            return listing.identity(connection, identity)

    @router.post("/identities/{identity}/erase", response_model=Shared, **needs("admin"))
    def erase(identity: str, caller: Who) -> Any:
        """Erase a person here and on every device, each of which answers with a receipt. Once more tells those again that wait."""
        with writing(context.engine) as connection:
            ledger.erase(connection, caller.name, identity, time.time())
        context.courier.wake()
        return one(identity)

    return router


def sharing_router(context: Context) -> APIRouter:
    """Which sites share."""
    router = APIRouter(tags=["identities"])

    @router.get("/sharing", response_model=Sharing, **needs("operator"))
    def sharing() -> Any:
        """Which sites share identities, and which of their devices let them."""
        with context.engine.connect() as connection:
            return {"door": context.settings.door is not None, "sites": listing.sites(connection)}

    @router.put("/sharing", status_code=204, **needs("admin"))
    def share(given: SharingChange, caller: Who) -> Response:
        """Let the devices of a site share identities; or no longer: then each erases what it got from others."""
        with writing(context.engine) as connection:
            ledger.share(connection, caller.name, given.site, given.enabled, time.time())
        context.courier.wake()
        return Response(status_code=204)

    return router
