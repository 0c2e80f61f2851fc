"""Pictures for the hub, for the control API: those of events, and the newest of a stream, one at a time."""

from __future__ import annotations

from collections.abc import Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.errors import UnknownError
from agent.serving import Problem
from agent.vision.event_pictures import EventPictures
from agent.vision.preview import Preview

JPEG = "image/jpeg"
NUMBER = "X-Almena-Picture"
PATIENCE_S = 2.0


def picture_routes(kept: EventPictures | None, preview: Callable[[str], Preview]) -> list[Route]:
    """Below /pictures, and `preview.jpg` of a stream. `preview` raises UnknownError."""

    def waiting(_request: Request) -> Response:
        return JSONResponse(kept.state() if kept else {"events": [], "waiting": 0, "lost": 0})

    def one(request: Request) -> Response:
        spool, seq = request.path_params["spool"], request.path_params["seq"]
        if kept is None:
            raise Problem(404, "No such picture", "the settings do not allow pictures for the hub")
        if request.method == "DELETE":
            kept.settle(spool, seq, lost=request.query_params.get("outcome") == "lost")
            return JSONResponse({})
        try:
            return Response(kept.picture(spool, seq), media_type=JPEG)
        except UnknownError as error:
            raise Problem(404, "No such picture", "it was sent, or dropped") from error

    async def newest(request: Request) -> Response:
        """The newest picture whose number is above `after`, with its number; 204 when there is none within PATIENCE_S."""
        after = request.query_params.get("after", "0")
        try:
            found = await run_in_threadpool(preview(request.path_params["stream"]).latest, int(after), PATIENCE_S)
        except UnknownError as error:
            raise Problem(404, "No such stream", str(error)) from error
        except ValueError as error:
            raise Problem(422, "`after` is no number") from error
        if found is None:
            return Response(status_code=204)
        return Response(found[1], media_type=JPEG, headers={NUMBER: str(found[0])})

    return [
        Route("/pictures", waiting, methods=["GET"]),
        Route("/pictures/{spool}/{seq:int}", one, methods=["GET", "DELETE"]),
        Route("/streams/{stream}/preview.jpg", newest, methods=["GET"]),
    ]
