"""Identities, clusters of unknown persons, and recognition of a picture. The vision process does the work."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from agent.audit import AuditLane
from agent.serving import Problem
from agent.uplink.web.changes import changed
from agent.uplink.web.guard import MAX_IMAGE_BYTES
from agent.uplink.web.models import ChangedIdentity, NewIdentity, ProblemDocument
from agent.uplink.web.vision import VisionClient

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}}
PICTURE: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": _FORM, "image/jpeg": _BINARY, "image/png": _BINARY}}
}
JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}, 404: {"model": ProblemDocument}}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ProblemDocument}}
NOT_TAKEN: dict[int | str, dict[str, Any]] = {422: {"model": ProblemDocument, "description": "Refused; `reasons` says why."}}


class _InMemory(MultiPartParser):
    """Pictures of persons are never spooled to a disk."""

    spool_max_size = MAX_IMAGE_BYTES


async def picture(request: Request) -> bytes:
    """The picture of a request: the form field `file`, or the whole body when that is an image. Raises Problem."""
    if request.headers.get("content-type", "").startswith("image/"):
        return await request.body()
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Problem(415, "A picture is needed", "send it as the form field `file`, or as the body with its image/… content type")
    try:
        form = await _InMemory(request.headers, request.stream(), max_files=1, max_fields=10).parse()
    except MultiPartException as error:
        raise Problem(400, "The form cannot be read", error.message) from error
    file = form.get("file")
    if not isinstance(file, UploadFile):
        await form.close()
        raise Problem(400, "No picture", "send it as the form field `file`")
    try:
        return await file.read()
    finally:
        await form.close()


def faces_router(outbox: AuditLane, vision: VisionClient) -> APIRouter:
    """Routes under /api/1 that manage who is known. Every change is audited."""
    router = APIRouter(prefix="/api/1", tags=["faces"], responses={503: {"model": ProblemDocument}, 507: {"model": ProblemDocument}})

    async def change(request: Request, action: str, path: str, **options: Any) -> Response:
        return await changed(outbox, request, action, lambda: vision.forward(request.method, path, **options))

    @router.get("/identities")
    async def identities() -> Response:
        """All enrolled persons, without their pictures or templates."""
        return await vision.forward("GET", "/identities")

    @router.post("/identities", status_code=201)
    async def create_identity(person: NewIdentity, request: Request) -> Response:
        """A new person. Add pictures next."""
        return await change(request, "identity add", "/identities", json=person.model_dump())

    @router.patch("/identities/{identity}", responses=NOT_FOUND)
    async def change_identity(identity: str, changes: ChangedIdentity, request: Request) -> Response:
        """Another name, consent note or expiry."""
        body = changes.model_dump(exclude_unset=True)
        path = f"/identities/{quote(identity, '')}"
        return await changed(outbox, request, "identity change", lambda: vision.forward("PATCH", path, json=body), fields=sorted(body))

    @router.delete("/identities/{identity}", status_code=204, responses=NOT_FOUND)
    async def erase_identity(identity: str, request: Request) -> Response:
        """Erase a person: templates, pictures, clusters and local history."""
        return await change(request, "identity erase", f"/identities/{quote(identity, '')}")

    @router.post("/identities/{identity}/images", status_code=201, openapi_extra=PICTURE, responses={**NOT_FOUND, **NOT_TAKEN})
    async def add_image(identity: str, request: Request) -> Response:
        """Add one picture that shows exactly this person's face."""
        body = await picture(request)
        return await change(request, "identity add picture", f"/identities/{quote(identity, '')}/images", content=body)

    @router.get("/identities/{identity}/images/{index}", response_class=Response, responses=JPEG)
    async def image(identity: str, index: int) -> Response:
        """An enrolled picture, counted from 0. Identities made from a cluster have none."""
        return await vision.forward("GET", f"/identities/{quote(identity, '')}/images/{index}")

    @router.get("/clusters")
    async def clusters() -> Response:
        """Unknown persons, by pseudonym."""
        return await vision.forward("GET", "/clusters")

    @router.post("/clusters/{cluster}/name", status_code=201, responses=NOT_FOUND)
    async def name_cluster(cluster: str, person: NewIdentity, request: Request) -> Response:
        """Make an unknown person an identity."""
        return await change(request, "cluster name", f"/clusters/{quote(cluster, '')}/name", json=person.model_dump())

    @router.delete("/clusters/{cluster}", status_code=204, responses=NOT_FOUND)
    async def erase_cluster(cluster: str, request: Request) -> Response:
        """Forget an unknown person."""
        return await change(request, "cluster erase", f"/clusters/{quote(cluster, '')}")

    @router.post("/recognize", openapi_extra=PICTURE)
    async def recognise(request: Request) -> Response:
        """Who is in a picture: for each face its box (x_min, y_min, x_max, y_max in pixels), name, distance and threshold."""
        return await vision.forward("POST", "/recognize", content=await picture(request))

    return router
