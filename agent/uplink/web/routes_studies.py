"""Radiographs and what the model said of them. Only after a login, also where the page is on loopback."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Depends
from starlette.responses import Response

from agent.serving import Problem
from agent.settings import WebSettings
from agent.uplink.web.models import ProblemDocument
from agent.uplink.web.routes_faces import JPEG
from agent.uplink.web.vision import VisionClient

PNG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}, 404: {"model": ProblemDocument}}


def studies_router(settings: WebSettings, vision: VisionClient) -> APIRouter:
    """Routes under /api/1/studies. Whoever gets past the guard has logged in, if there is a login at all."""

    def behind_a_login() -> None:
        if settings.login is None:
            detail = "set web.login in the settings; `almena doctor --hash-password` makes the hash"
            raise Problem(403, "Radiographs are shown only after a login", detail)

    refusals: dict[int | str, dict[str, Any]] = {403: {"model": ProblemDocument}, 503: {"model": ProblemDocument}}
    router = APIRouter(prefix="/api/1/studies", tags=["studies"], dependencies=[Depends(behind_a_login)], responses=refusals)

    @router.get("")
    async def studies() -> Response:
        """The newest radiographs: scores, decision or why there is none, seconds by step. Nothing of the patient."""
        return await vision.forward("GET", "/studies")

    @router.get("/{item}/picture.jpg", response_class=Response, responses=JPEG)
    async def picture(item: str) -> Response:
        """The radiograph."""
        return await vision.forward("GET", f"/studies/{quote(item, '')}/picture.jpg")

    @router.get("/{item}/heat-map.png", response_class=Response, responses=PNG)
    async def heat_map(item: str) -> Response:
        """What to lay over it: where the model saw what it answered."""
        return await vision.forward("GET", f"/studies/{quote(item, '')}/heat-map.png")

    return router
