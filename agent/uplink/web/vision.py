"""Talks to the vision process over its Unix socket. When it does not answer, callers get a 503 that says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.background import BackgroundTask
from starlette.responses import Response, StreamingResponse

from agent.serving import Problem

if TYPE_CHECKING:
    import httpx

ANSWERS_WITHIN_S = 15.0


class VisionClient:
    """Forwards requests to the control API. Belongs to one event loop."""

    def __init__(self, control_socket: Path) -> None:
        self._path = str(control_socket)

    @cached_property
    def _client(self) -> httpx.AsyncClient:
        import httpx

        transport = httpx.AsyncHTTPTransport(uds=self._path, limits=httpx.Limits(max_keepalive_connections=0))
        return httpx.AsyncClient(transport=transport, base_url="http://vision", timeout=ANSWERS_WITHIN_S)

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request and read the whole answer, whatever its status. Raises Problem (503) when nobody answers."""
        import httpx

        try:
            return await self._client.request(method, path, **options)
        except httpx.TransportError as error:
            raise _down(error) from error

    async def get(self, path: str) -> Any:
        """The JSON at `path`. Raises Problem."""
        answer = await self.ask("GET", path)
        if answer.is_error:
            raise Problem(502, "The vision process failed", f"it answered {answer.status_code} to {path}")
        return answer.json()

    async def forward(self, method: str, path: str, **options: Any) -> Response:
        """Send one request and pass the answer on as it is, errors too."""
        answer = await self.ask(method, path, **options)
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))

    async def stream(self, path: str) -> Response:
        """Pass on an answer that does not end."""
        import httpx

        try:
            answer = await self._client.send(self._client.build_request("GET", path), stream=True)
        except httpx.TransportError as error:
            raise _down(error) from error
        if answer.is_error:
            content = await answer.aread()
            await answer.aclose()
            return Response(content, answer.status_code, media_type=answer.headers.get("content-type"))
        kind = answer.headers["content-type"]
        return StreamingResponse(_until_lost(answer), media_type=kind, background=BackgroundTask(answer.aclose))

    async def close(self) -> None:
        """Close what is open."""
        if "_client" in self.__dict__:
            await self._client.aclose()


async def _until_lost(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The bytes of a live answer; it simply ends when the vision process goes away, and the page asks again."""
    import httpx

    try:
        async for part in answer.aiter_raw():
            yield part
    except httpx.TransportError:
        return
    finally:
        await answer.aclose()


def _down(error: httpx.TransportError) -> Problem:
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return Problem(503, "Vision does not answer", f"no answer within {ANSWERS_WITHIN_S:g} s; see the vision process's log")
    return Problem(503, "Vision is not running", "the vision process does not answer on its socket; see its log")
