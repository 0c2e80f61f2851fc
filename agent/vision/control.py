"""The control API: HTTP over a Unix socket, by which the uplink process sees live pictures and manages identities.

Whoever may open the socket (its owner and group) may do everything here; the page in front of it checks who asks.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from agent.datatypes import Annotation, StreamHealth
from agent.errors import UnknownError
from agent.remote import Wish
from agent.serving import HANDLERS, MAX_IMAGE_BYTES, Problem, ThreadedServer
from agent.settings import Settings
from agent.vision.control_socket import listening
from agent.vision.event_pictures import EventPictures
from agent.vision.gallery import LATEST_EXPIRY
from agent.vision.inference.http import InferenceApp
from agent.vision.inference.models import Serving
from agent.vision.picture_routes import picture_routes
from agent.vision.preview import Preview
from agent.vision.sharing import SharedFaces, sharing_routes
from agent.vision.study_control import StudyControl

BOUNDARY = "almena-frame"
MAX_VIEWERS = 8
"""Live pictures at once over all streams; each occupies a thread while it waits."""

T = TypeVar("T")


class Faces(Protocol):
    """What the API asks of identity enrolment. Records are JSON-ready; unknown ids raise UnknownError, refusals AlmenaError."""

    def identities(self) -> Sequence[Mapping[str, Any]]: ...

    def create(self, name: str, consent: str, expires_at: float | None) -> Mapping[str, Any]: ...

    def add_image(self, identity: str, picture: bytes) -> Mapping[str, Any]:
        """`{"accepted": bool, "reasons": [...], …}`."""
        ...

    def pictures(self, identity: str) -> Sequence[bytes]: ...

    def change(self, identity: str, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Other values for any of `name`, `consent`, `expires_at`."""
        ...

    def erase(self, identity: str) -> None: ...

    def clusters(self) -> Sequence[Mapping[str, Any]]: ...

    def name_cluster(self, cluster: str, name: str, consent: str, expires_at: float | None) -> Mapping[str, Any]: ...

    def erase_cluster(self, cluster: str) -> None: ...

    def recognise(self, picture: bytes) -> Sequence[Mapping[str, Any]]: ...

    @property
    def shared(self) -> SharedFaces: ...


class VisionControl(Protocol):
    """What the API needs of the vision process."""

    @property
    def settings(self) -> Settings: ...

    @property
    def faces(self) -> Faces: ...

    @property
    def serving(self) -> Serving: ...

    @property
    def studies(self) -> StudyControl: ...

    @property
    def pictures(self) -> EventPictures | None:
        """Those that wait for the hub; None where the settings do not allow any."""
        ...

    def streams(self) -> list[StreamHealth]: ...

    def preview(self, stream: str) -> Preview:
        """Raises UnknownError, like `annotations`."""
        ...

    def annotations(self, stream: str) -> Sequence[Annotation]: ...

    def engines(self) -> list[dict[str, Any]]: ...

    def metrics(self) -> dict[str, Any]: ...

    @property
    def restart_needed(self) -> Sequence[str]:
        """Sections of the settings that `reload` found changed and that are not in force before a restart."""
        ...

    def reload(self) -> bool: ...

    def try_out(self, wish: Wish) -> bool:
        """Raises SettingsError."""
        ...

    def in_force(self) -> dict[str, Any]: ...

    def restart(self, name: str) -> None:
        """Raises UnknownError."""
        ...

    def tune(self, model: str | None, budget_s: float | None) -> dict[str, Any]:
        """Raises UsageError."""
        ...

    def tuning(self) -> dict[str, Any]: ...


class ControlServer:
    """Serves the control API of `vision` on `settings.control_socket`, mode 0660, in a thread of its own."""

    def __init__(self, vision: VisionControl, listener: socket.socket | None = None) -> None:
        """`listener`: that of `listening`, where it was claimed before. Raises AlmenaError as `listening` does."""
        self._path = vision.settings.control_socket
        self._api = _Api(vision, lambda: self._server.stopping)
        self._server = ThreadedServer(self._api.app(), listener or listening(self._path), "control")

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self) -> None:
        """End running answers and remove the socket."""
        self._server.stop()
        self._path.unlink(missing_ok=True)


class _Api:
    def __init__(self, vision: VisionControl, stopping: Callable[[], bool]) -> None:
        self._vision = vision
        self._stopping = stopping
        self._viewers = 0
        self._started_at = time.time()

    def app(self) -> ASGIApp:
        get, post, erase = ["GET"], ["POST"], ["DELETE"]
        routes = [
            Route("/health", self.health, methods=get),
            Route("/streams", self.streams, methods=get),
            Route("/streams/{stream}/annotations", self.annotations, methods=get),
            Route("/streams/{stream}/live.mjpg", self.live, methods=get),
            Route("/streams/{stream}/snapshot.jpg", self.snapshot, methods=get),
            Route("/engines", self.engines, methods=get),
            Route("/metrics", self.metrics, methods=get),
            Route("/inference", self.inference, methods=get),
            Route("/reload", self.reload, methods=post),
            Route("/settings", self.try_out, methods=post),
            Route("/streams/{stream}/restart", self.restart, methods=post),
            Route("/tune", self.tune, methods=post),
            Route("/tune", self.tuning, methods=get),
            Route("/identities", self.identities, methods=get),
            Route("/identities", self.create_identity, methods=post),
            Route("/identities/{identity}", self.change_identity, methods=["PATCH"]),
            Route("/identities/{identity}", self.erase_identity, methods=erase),
            Route("/identities/{identity}/images", self.add_image, methods=post),
            Route("/identities/{identity}/images/{index:int}", self.image, methods=get),
            Route("/clusters", self.clusters, methods=get),
            Route("/clusters/{cluster}/name", self.name_cluster, methods=post),
            Route("/clusters/{cluster}", self.erase_cluster, methods=erase),
            Route("/studies", self.studies, methods=get),
            Route("/studies/{item}/picture.jpg", self.study_picture, methods=get),
            Route("/studies/{item}/heat-map.png", self.study_heat_map, methods=get),
            Route("/recognize", self.recognise, methods=post),
            *sharing_routes(lambda: self._vision.faces.shared),
            *picture_routes(self._vision.pictures, self._vision.preview),
        ]
        return InferenceApp(lambda: self._vision.serving, Starlette(routes=routes, exception_handlers=HANDLERS))

    def health(self, _request: Request) -> Response:
        in_force = self._vision.in_force()
        return JSONResponse({"status": "ok", "pid": os.getpid(), "started_at": self._started_at, "in_force": in_force})

    def streams(self, _request: Request) -> Response:
        return JSONResponse([asdict(health) for health in self._vision.streams()])

    def annotations(self, request: Request) -> Response:
        name = request.path_params["stream"]
        return JSONResponse([asdict(seen) for seen in _known(name, "stream", self._vision.annotations)])

    def engines(self, _request: Request) -> Response:
        return JSONResponse(self._vision.engines())

    def metrics(self, _request: Request) -> Response:
        return JSONResponse(self._vision.metrics())

    def studies(self, _request: Request) -> Response:
        return JSONResponse(self._vision.studies.recent())

    def study_picture(self, request: Request) -> Response:
        return Response(_known(request.path_params["item"], "study", self._vision.studies.picture), media_type="image/jpeg")

    def study_heat_map(self, request: Request) -> Response:
        return Response(_known(request.path_params["item"], "study", self._vision.studies.heat_map), media_type="image/png")

    def inference(self, _request: Request) -> Response:
        return JSONResponse(self._vision.serving.status())

    def reload(self, _request: Request) -> Response:
        """201 when streams were started anew, 200 when there was nothing to do; `restart_needed` names what takes a restart."""
        changed = self._vision.reload()
        return JSONResponse({"reloaded": changed, "restart_needed": list(self._vision.restart_needed)}, 201 if changed else 200)

    async def try_out(self, request: Request) -> Response:
        """Sections that the hub wants, in force until a reload or a start: 201 where streams were started anew, 422 for a refusal."""
        try:
            wish = Wish.of_json(await _json(request))
        except ValueError as error:
            raise Problem(400, "No settings", str(error)) from error
        changed = await run_in_threadpool(self._vision.try_out, wish)
        return JSONResponse({"reloaded": changed}, 201 if changed else 200)

    def restart(self, request: Request) -> Response:
        name = request.path_params["stream"]
        _known(name, "stream", self._vision.restart)
        return JSONResponse({"restarted": name})

    async def tune(self, request: Request) -> Response:
        """202: it goes on. `model`: one that is in use; `budget_s`: seconds for each."""
        asked = await _json(request)
        model, budget_s = asked.get("model"), asked.get("budget_s")
        if not isinstance(model, str | None) or not isinstance(budget_s, int | float | None):
            raise Problem(422, "The question is wrong", "`model` is a text, `budget_s` a number")
        return JSONResponse(await run_in_threadpool(self._vision.tune, model, budget_s), 202)

    def tuning(self, _request: Request) -> Response:
        return JSONResponse(self._vision.tuning())

    def snapshot(self, request: Request) -> Response:
        name = request.path_params["stream"]
        picture = _known(name, "stream", self._vision.preview).snapshot()
        if picture is None:
            raise Problem(409, "No picture yet", f"stream {name!r} has not delivered a frame since the start")
        return Response(picture, media_type="image/jpeg", headers={"Cache-Control": "no-store"})

    async def live(self, request: Request) -> Response:
        """Motion JPEG: one part per picture until the viewer leaves."""
        preview = _known(request.path_params["stream"], "stream", self._vision.preview)
        if self._viewers >= MAX_VIEWERS:
            raise Problem(503, "Too many viewers", f"{MAX_VIEWERS} live pictures are being watched; close one of them")
        kind = f"multipart/x-mixed-replace; boundary={BOUNDARY}"
        return StreamingResponse(self._pictures(preview), media_type=kind, headers={"Cache-Control": "no-store"})

    async def _pictures(self, preview: Preview) -> AsyncIterator[bytes]:
        self._viewers += 1
        try:
            number = 0
            while not self._stopping():
                latest = await run_in_threadpool(preview.latest, number, 0.5)
                if latest is None:
                    continue
                number, picture = latest
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
                yield head.encode() + picture + b"\r\n"
        finally:
            self._viewers -= 1

    def identities(self, _request: Request) -> Response:
        return JSONResponse(list(self._vision.faces.identities()))

    async def create_identity(self, request: Request) -> Response:
        name, consent, expires_at = _person(await _json(request))
        return JSONResponse(await run_in_threadpool(self._vision.faces.create, name, consent, expires_at), 201)

    async def change_identity(self, request: Request) -> Response:
        changes = _changes(await _json(request))
        identity = request.path_params["identity"]
        return JSONResponse(await run_in_threadpool(_known, identity, "identity", lambda key: self._vision.faces.change(key, changes)))

    def image(self, request: Request) -> Response:
        pictures = _known(request.path_params["identity"], "identity", self._vision.faces.pictures)
        index = request.path_params["index"]
        if index >= len(pictures):
            raise Problem(404, "No such picture", f"there are {len(pictures)}, counted from 0")
        return Response(pictures[index], media_type="image/jpeg")

    def erase_identity(self, request: Request) -> Response:
        _known(request.path_params["identity"], "identity", self._vision.faces.erase)
        return Response(status_code=204)

    async def add_image(self, request: Request) -> Response:
        """201 when the picture was taken, 422 with the reasons when it was not."""
        picture = await _body(request)
        identity = request.path_params["identity"]
        answer = await run_in_threadpool(_known, identity, "identity", lambda key: self._vision.faces.add_image(key, picture))
        if not answer["accepted"]:
            members = {key: value for key, value in answer.items() if key != "accepted"}
            raise Problem(422, "The picture was not taken", "; ".join(answer["reasons"]), **members)
        return JSONResponse(answer, 201)

    def clusters(self, _request: Request) -> Response:
        return JSONResponse(list(self._vision.faces.clusters()))

    async def name_cluster(self, request: Request) -> Response:
        name, consent, expires_at = _person(await _json(request))
        cluster = request.path_params["cluster"]
        record = await run_in_threadpool(
            _known, cluster, "cluster", lambda key: self._vision.faces.name_cluster(key, name, consent, expires_at)
        )
        return JSONResponse(record, 201)

    def erase_cluster(self, request: Request) -> Response:
        _known(request.path_params["cluster"], "cluster", self._vision.faces.erase_cluster)
        return Response(status_code=204)

    async def recognise(self, request: Request) -> Response:
        picture = await _body(request)
        return JSONResponse({"result": list(await run_in_threadpool(self._vision.faces.recognise, picture))})


def _known(name: str, what: str, ask: Callable[[str], T]) -> T:
    try:
        return ask(name)
    except UnknownError as error:
        raise Problem(404, f"No such {what}", f"there is no {what} {name!r}") from error


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_IMAGE_BYTES:
            raise Problem(413, "The picture is too large", f"at most {MAX_IMAGE_BYTES // 2**20} MiB")
    if not body:
        raise Problem(400, "No picture", "send the bytes of a picture file (JPEG, PNG, BMP, WebP or TIFF) as the body")
    return bytes(body)


async def _json(request: Request) -> dict[str, Any]:
    try:
        value = await request.json()
    except ValueError as error:
        raise Problem(400, "Not JSON", str(error)) from error
    if not isinstance(value, dict):
        raise Problem(400, "Not an object", "send a JSON object")
    return value


def _person(value: dict[str, Any]) -> tuple[str, str, float | None]:
    changes = _changes({"name": None, "consent": "", "expires_at": None} | value)
    return changes["name"], changes["consent"], changes["expires_at"]


def _changes(value: dict[str, Any]) -> dict[str, Any]:
    """The record's fields that `value` has, checked. Raises Problem."""
    found: dict[str, Any] = {key: value[key] for key in ("name", "consent", "expires_at") if key in value}
    if "name" in found and not (isinstance(found["name"], str) and found["name"].strip()):
        raise Problem(422, "A name is needed", "set `name` to a text that is not empty")
    if "name" in found:
        found["name"] = found["name"].strip()
    if not isinstance(found.get("consent", ""), str):
        raise Problem(422, "The consent note is no text", "set `consent` to a text")
    expires_at = found.get("expires_at")
    if expires_at is not None and not (isinstance(expires_at, int | float) and time.time() < expires_at < LATEST_EXPIRY):
        raise Problem(422, "The expiry is not in the future", "set `expires_at` to a Unix time in seconds that is yet to come, or to null")
    return found
