"""How the device is doing: streams and their pictures, engines, outbox, health, metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agent import __version__
from agent.errors import AlmenaError
from agent.serving import Problem
from agent.uplink.telemetry.dicom import DicomCollector, alarms
from agent.uplink.web.changes import changed
from agent.uplink.web.context import WebContext
from agent.uplink.web.models import Connection, Health, ProblemDocument
from agent.uplink.web.prometheus import Snapshot
from agent.uplink.web.routes_faces import JPEG
from agent.uplink.web.vision import VisionClient


def state_router(context: WebContext, vision: VisionClient) -> APIRouter:
    """Routes under /api/1 that describe the device."""
    router = APIRouter(prefix="/api/1", tags=["state"], responses={503: {"model": ProblemDocument}})
    state = _State(context, vision)
    stream = "/streams/{stream}"
    reloaded: dict[int | str, dict[str, Any]] = {201: {"description": "Streams were started anew."}, 422: {"model": ProblemDocument}}
    router.get("/health")(state.health)
    router.get("/streams")(state.streams)
    router.get(f"{stream}/annotations")(state.annotations)
    router.get(f"{stream}/live.mjpg", response_class=Response)(state.live)
    router.get(f"{stream}/snapshot.jpg", response_class=Response, responses=JPEG)(state.snapshot)
    router.get("/engines")(state.engines)
    router.get("/inference")(state.inference)
    router.get("/performance")(state.performance)
    router.get("/outbox")(state.outbox)
    router.get("/telemetry")(state.telemetry)
    router.post("/config/reload", responses=reloaded)(state.reload)
    return router


class _State:
    """The handlers; their docstrings are the descriptions in OpenAPI."""

    def __init__(self, context: WebContext, vision: VisionClient) -> None:
        self._context = context
        self._vision = vision
        self._started_at = time.time()

    async def health(self) -> Health:
        """The device at a glance. Answers also while the vision process is down."""
        return Health(
            device=self._context.settings.device.name,
            version=__version__,
            started_at=self._started_at,
            login=self._context.settings.web.login is not None,
            studies=self._context.settings.dicom is not None,
            vision=await _vision_state(self._vision),
            broker=Connection(state=self._context.broker.state, detail=self._context.broker.text),
            watched=self._context.broker.as_dict().get("watched", []),
            dicom=self._dicom() if self._context.settings.dicom else None,
        )

    def _dicom(self) -> Connection:
        figures = DicomCollector(self._context.settings.state_dir).collect()
        wrong = alarms(figures)
        state = "down" if figures["state"] == "down" else "impaired" if wrong else "running"
        return Connection(state=state, detail="; ".join(wrong))

    async def streams(self) -> Response:
        """Health of every stream: state, stable error code, rates per second."""
        return await self._vision.forward("GET", "/streams")

    async def annotations(self, stream: str) -> Response:
        """What is seen right now: boxes in pixels of the frame, labels, scores."""
        return await self._vision.forward("GET", f"/streams/{quote(stream, '')}/annotations")

    async def live(self, stream: str) -> Response:
        """The live picture with boxes and names, as Motion JPEG."""
        return await self._vision.stream(f"/streams/{quote(stream, '')}/live.mjpg")

    async def snapshot(self, stream: str) -> Response:
        """The newest frame, in full size, with nothing drawn on it."""
        return await self._vision.forward("GET", f"/streams/{quote(stream, '')}/snapshot.jpg")

    async def engines(self) -> Response:
        """The engines in use with their passports, and why each was chosen."""
        return await self._vision.forward("GET", "/engines")

    async def inference(self) -> Response:
        """The models that are served under /v2 and /v1: state, engines, queue, requests by how they ended, latencies."""
        return await self._vision.forward("GET", "/inference")

    async def performance(self) -> Response:
        """Counters and latencies of each stream's stages."""
        return await self._vision.forward("GET", "/metrics")

    def outbox(self) -> Response:
        """Depth, age and losses of each lane, and how the broker is doing."""
        return JSONResponse({"lanes": self._context.outbox.stats(), "broker": self._context.broker.as_dict()})

    def telemetry(self) -> Response:
        """The newest telemetry of the host."""
        return JSONResponse(dict(self._context.telemetry()))

    async def reload(self, request: Request) -> Response:
        """Read the settings file again; `restart_needed` names changed sections that take a restart of the agent.

        A file with errors changes nothing, and the answer says where they are.
        """
        return await changed(self._context.outbox, request, "settings reload", self._reload)

    async def _reload(self) -> Response:
        answer = await self._vision.forward("POST", "/reload")
        self._context.reloaded()
        return answer


def probes_router(context: WebContext, vision: VisionClient) -> APIRouter:
    """What monitoring asks: /healthz, /readyz, /metrics."""
    router = APIRouter(tags=["monitoring"])

    @router.get("/healthz")
    async def live() -> dict[str, str]:
        """The process answers. `instance` tells agents of one machine apart."""
        return {"status": "ok", "instance": context.settings.instance}

    @router.get("/readyz", responses={503: {"model": ProblemDocument}})
    async def ready() -> dict[str, str]:
        """Vision answers and the outbox can be read."""
        state = await _vision_state(vision)
        if state.state != "running":
            raise Problem(503, "Not ready", state.detail)
        try:
            await run_in_threadpool(context.outbox.stats)
        except AlmenaError as error:
            raise Problem(503, "Not ready", str(error)) from error
        return {"status": "ready"}

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Prometheus metrics."""
        streams = await _or_none(lambda: vision.get("/streams"))
        figures = await _or_none(lambda: vision.get("/metrics")) or {}
        lanes = await run_in_threadpool(context.outbox.stats)
        models = await _or_none(lambda: vision.get("/inference")) or ()
        scrape = Snapshot(streams, figures, lanes, context.broker.as_dict(), context.telemetry(), models)
        return Response(scrape.text(), media_type="text/plain; version=0.0.4")

    return router


async def _vision_state(vision: VisionClient) -> Connection:
    try:
        await vision.get("/health")
    except Problem as problem:
        return Connection(state="down", detail=problem.detail)
    return Connection(state="running")


async def _or_none(ask: Callable[[], Any]) -> Any:
    try:
        return await ask()
    except Problem:
        return None
