"""The two protocols as an ASGI application under /v2 and /v1, without a framework: it is on the way of every picture."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.vision.inference import tfserving, v2
from agent.vision.inference.models import Running, Served, Serving
from agent.vision.inference.signature import InferenceError, Outputs
from engines.errors import EngineError

MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_UNDER_WAY_BYTES = 128 * 1024 * 1024
"""Of bodies that are in memory at once."""
INLINE_BYTES = 64 * 1024
"""JSON beyond this is parsed in a thread, so that nobody waits for it; binary bodies need no parsing."""

V2 = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<what>ready|infer))?")
V1 = re.compile(r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[^/:]+))?(?:(?P<what>:predict)|/(?P<more>metadata))?")
Answer = tuple[int, bytes, dict[str, str]]


class InferenceApp:
    """Answers /v1… and /v2…; the rest is `beyond`'s. `serving()` gives the models that are served now."""

    def __init__(self, serving: Callable[[], Serving], beyond: ASGIApp) -> None:
        self._serving = serving
        self._beyond = beyond
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path in ("/v1", "/v2") or path.startswith(("/v1/", "/v2/"))):
            await self._beyond(scope, receive, send)
            return
        body = bytearray()
        try:
            headers = await self._read(scope, receive, body)
            status, content, more = await self._answer(scope["path"], scope["method"], receive, body, headers)
        except InferenceError as error:
            more = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
            status, content = error.status, _json({"error": str(error)})
        except _GoneError:
            return
        finally:
            self._under_way -= len(body)
        more = {"content-type": "application/json", "content-length": str(len(content)), **more}
        raw = [(name.encode(), value.encode()) for name, value in more.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    async def _read(self, scope: Scope, receive: Receive, body: bytearray) -> Headers:
        """Read the whole body, also where it is refused: a client that is still sending would not see the answer."""
        headers = Headers(scope=scope)
        length = headers.get("content-length")
        if length is not None and not (length.isdecimal() and int(length) <= MAX_BODY_BYTES):
            raise InferenceError(413, f"the body may have at most {MAX_BODY_BYTES} bytes")
        refused, read, more = None, 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            part = message.get("body", b"")
            read += len(part)
            more = message.get("more_body", False)
            if read > MAX_BODY_BYTES:
                raise InferenceError(413, f"the body may have at most {MAX_BODY_BYTES} bytes")
            if self._under_way + len(part) > MAX_UNDER_WAY_BYTES:
                refused = InferenceError(429, "too many bytes are being received at once; try again soon", 1)
            if refused is None:
                body += part
                self._under_way += len(part)
        if refused:
            raise refused
        if headers.get("content-encoding", "identity") != "identity":
            raise InferenceError(415, "compressed requests are not taken; send the binary form, it is small")
        return headers

    async def _answer(self, path: str, method: str, receive: Receive, body: bytearray, headers: Headers) -> Answer:
        serving = self._serving()
        if (found := V2.fullmatch(path)) is not None:
            _require(method, "POST" if found["what"] == "infer" else "GET")
            model = serving.model(found["name"], found["version"])
            if found["what"] == "infer":
                return await self._infer(model, receive, body, headers)
            if found["what"] is None:
                return 200, _json(v2.metadata(model.running.signature)), {}
            ready = model.state == "ready"
            return (200 if ready else 503), _json({"name": model.name, "ready": ready}), {}
        if (found := V1.fullmatch(path)) is not None:
            _require(method, "POST" if found["what"] else "GET")
            model = serving.model(found["name"], found["version"])
            if found["what"]:
                return await self._predict(model, receive, body)
            return 200, _json(tfserving.metadata(model.running.signature) if found["more"] else _tf_status(model)), {}
        return _health(path, method, serving)

    async def _infer(self, model: Served, receive: Receive, body: bytearray, headers: Headers) -> Answer:
        running = model.running
        header_length = headers.get("inference-header-content-length")
        inline = header_length is not None or len(body) <= INLINE_BYTES
        call = await _decoded(running, inline, v2.decode, body, header_length, running.signature)
        wanted = tuple(name for name, _ in call.wanted)
        outputs = await self._outputs(running, receive, call.image, wanted)
        content, head = v2.encode(running.signature, call, outputs)
        if head is None:
            return 200, content, {}
        return 200, content, {"content-type": "application/octet-stream", "inference-header-content-length": str(head)}

    async def _predict(self, model: Served, receive: Receive, body: bytearray) -> Answer:
        running = model.running
        call = await _decoded(running, False, tfserving.decode, body, running.signature, running.fit)
        outputs = await self._outputs(running, receive, call.image, call.wanted)
        return 200, tfserving.encode(call, outputs), {}

    async def _outputs(self, running: Running, receive: Receive, image: Any, wanted: tuple[str, ...]) -> Outputs:
        """The engine's answer, unless the client leaves or the time is over: then the pictures leave the queue."""
        timeout_s = self._serving().timeout_s
        answer = asyncio.wrap_future(running.batcher.submit(image, timeout_s))
        watch = asyncio.ensure_future(receive())
        watch.add_done_callback(lambda gone: None if gone.cancelled() else answer.cancel())
        late = asyncio.get_running_loop().call_later(timeout_s, answer.cancel)
        try:
            outputs = await answer
        except asyncio.CancelledError:
            if watch.done():
                raise _GoneError from None
            running.batcher.count("timeout")
            raise InferenceError(503, f"no answer within {timeout_s:g} s; try again, or send fewer pictures", 1) from None
        finally:
            late.cancel()
            watch.cancel()
        try:
            return running.complete(outputs, wanted)
        except EngineError as error:
            raise InferenceError(500, str(error)) from error


class _GoneError(Exception):
    """The client has left."""


async def _decoded(running: Running, inline: bool, decode: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return decode(*arguments) if inline else await run_in_threadpool(decode, *arguments)
    except InferenceError:
        running.batcher.count("invalid")
        raise


def _health(path: str, method: str, serving: Serving) -> Answer:
    """Health and Server Metadata."""
    if path.rstrip("/") not in ("/v2", "/v2/health/live", "/v2/health/ready"):
        raise InferenceError(404, "no such path; there are /v2/models/{name} and /v1/models/{name}, with /infer and :predict")
    _require(method, "GET")
    if path == "/v2/health/ready":
        return (200 if serving.ready else 503), _json({"ready": serving.ready}), {}
    return 200, _json({"live": True} if path.startswith("/v2/health") else v2.server()), {}


def _tf_status(model: Served) -> dict[str, Any]:
    state = {"loading": "LOADING", "ready": "AVAILABLE", "failed": "END", "closed": "UNLOADING"}[model.state]
    return tfserving.status(model.version or "0", state, model.detail)


def _require(method: str, wanted: str) -> None:
    if method != wanted:
        raise InferenceError(405, f"this path takes {wanted}")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
