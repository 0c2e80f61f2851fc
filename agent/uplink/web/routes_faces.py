"""Identities, clusters of unknown persons, and recognition of a picture. The vision process does the work."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from agent.audit import AuditLane
from agent.serving import MAX_IMAGE_BYTES, Problem
from agent.uplink.web.changes import changed
from agent.uplink.web.models import ChangedIdentity, NewIdentity, ProblemDocument
from agent.uplink.web.vision import VisionClient

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}}
_FORMATS = ("image/jpeg", "image/png", "image/bmp", "image/webp", "image/tiff")
PICTURE: dict[str, Any] = {"requestBody": {"required": True, "content": {"multipart/form-data": _FORM, **dict.fromkeys(_FORMATS, _BINARY)}}}
JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}}, 404: {"model": ProblemDocument}}
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ProblemDocument}}
NOT_TAKEN: dict[int | str, dict[str, Any]] = {422: {"model": ProblemDocument, "description": "Refused; `reasons` says why."}}


UPLOADS = 4
"""Pictures that are received and looked at at once, 16 MiB each; those that come meanwhile wait with their bodies unread."""


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
    faces = _Faces(outbox, vision)
    person, unknown = "/identities/{identity}", "/clusters/{cluster}"
    router.get("/identities")(faces.identities)
    router.post("/identities", status_code=201)(faces.create_identity)
    router.patch(person, responses=NOT_FOUND)(faces.change_identity)
    router.delete(person, status_code=204, responses=NOT_FOUND)(faces.erase_identity)
    router.post(f"{person}/images", status_code=201, openapi_extra=PICTURE, responses={**NOT_FOUND, **NOT_TAKEN})(faces.add_image)
    router.get(f"{person}/images/{{index}}", response_class=Response, responses=JPEG)(faces.image)
    router.get("/clusters")(faces.clusters)
    router.post(f"{unknown}/name", status_code=201, responses=NOT_FOUND)(faces.name_cluster)
    router.delete(unknown, status_code=204, responses=NOT_FOUND)(faces.erase_cluster)
    router.post("/recognize", openapi_extra=PICTURE)(faces.recognise)
    return router


class _Faces:
    """The handlers; their docstrings are the descriptions in OpenAPI."""

    def __init__(self, outbox: AuditLane, vision: VisionClient) -> None:
        self._outbox = outbox
        self._vision = vision
        self._uploads = asyncio.Semaphore(UPLOADS)

    async def identities(self) -> Response:
        """All enrolled persons, without their pictures or templates."""
        return await self._vision.forward("GET", "/identities")

    async def create_identity(self, person: NewIdentity, request: Request) -> Response:
        """A new person. Add pictures next."""
        return await self._change(request, "identity add", "/identities", json=person.model_dump())

    async def change_identity(self, identity: str, changes: ChangedIdentity, request: Request) -> Response:
        """Another name, consent note or expiry."""
        body = changes.model_dump(exclude_unset=True)
        path = f"/identities/{quote(identity, '')}"
        return await changed(
            self._outbox, request, "identity change", lambda: self._vision.forward("PATCH", path, json=body), fields=sorted(body)
        )

    async def erase_identity(self, identity: str, request: Request) -> Response:
        """Erase a person: templates, pictures, clusters and local history."""
        return await self._change(request, "identity erase", f"/identities/{quote(identity, '')}")

    async def add_image(self, identity: str, request: Request) -> Response:
        """Add one picture that shows exactly this person's face."""
        async with self._uploads:
            body = await picture(request)
            return await self._change(request, "identity add picture", f"/identities/{quote(identity, '')}/images", content=body)

    async def image(self, identity: str, index: int) -> Response:
        """An enrolled picture, counted from 0. Identities made from a cluster have none."""
        return await self._vision.forward("GET", f"/identities/{quote(identity, '')}/images/{index}")

    async def clusters(self) -> Response:
        """Unknown persons, by pseudonym."""
        return await self._vision.forward("GET", "/clusters")

    async def name_cluster(self, cluster: str, person: NewIdentity, request: Request) -> Response:
        """Make an unknown person an identity."""
        return await self._change(request, "cluster name", f"/clusters/{quote(cluster, '')}/name", json=person.model_dump())

    async def erase_cluster(self, cluster: str, request: Request) -> Response:
        """Forget an unknown person."""
        return await self._change(request, "cluster erase", f"/clusters/{quote(cluster, '')}")

    async def recognise(self, request: Request) -> Response:
        """Who is in a picture: for each face its box (x_min, y_min, x_max, y_max in pixels), name, distance and threshold."""
        async with self._uploads:
            return await self._vision.forward("POST", "/recognize", content=await picture(request))

    async def _change(self, request: Request, action: str, path: str, **options: Any) -> Response:
        return await changed(self._outbox, request, action, lambda: self._vision.forward(request.method, path, **options))
