"""STOW-RS: POST /dicom-web/studies (PS3.18, clause 10.5). An instance in the answer's list is durable."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

from pydicom.uid import UID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent.dicom.counters import Counters
from agent.dicom.intake import Accepted, Intake, RefusedError
from agent.dicom.multipart import MultipartError, boundary_of, parts
from agent.dicom.reading import UnusableError, named
from agent.dicom_settings import DicomWebSettings
from agent.errors import AlmenaError
from agent.handed import handed
from agent.serving import HANDLERS, Problem, ThreadedServer, bound

log = logging.getLogger(__name__)

FAILURES = {
    "no-space": 0xA700, "storage": 0xA701, "too-large": 0xA702, "uid-mismatch": 0xA900, "sop-class": 0x0122, "transfer-syntax": 0xC122,
    "conflict": 0xC101,
}  # fmt: skip
"""Failure Reason (PS3.18, table I.2-2)."""
CANNOT_UNDERSTAND = 0xC000
SLACK = 1024 * 1024
"""Bytes of a request beside one instance of the largest size."""
IDLE_S = 30.0
"""A sender that is silent for so long within a body is sent away."""
SLOWEST = 10_000
"""Bytes a second that a body comes with at least, once `IDLE_S` are over."""
AT_ONCE = 2
"""Requests of the largest size that are in hand; of smaller ones so many more."""


class StowServer:
    """Listens from `start` on; `port` is then the one in use. Raises AlmenaError if it cannot."""

    def __init__(self, settings: DicomWebSettings, max_bytes: int, intake: Intake, counters: Counters) -> None:
        self._limit = max_bytes + SLACK
        self._in_hand, self._changed = 0, asyncio.Condition()
        self._intake = intake
        self._counters = counters
        try:
            self._token = handed(settings.token_file).read_text(encoding="utf-8").strip() if settings.token_file else ""
        except (OSError, UnicodeDecodeError) as error:
            raise AlmenaError(f"dicom.web.token_file cannot be read: {error}") from error
        if settings.token_file and len(self._token) < 16:
            raise AlmenaError("dicom.web.token_file: the token must have at least 16 characters")
        app = Starlette(routes=[Route("/dicom-web/studies", self._store, methods=["POST"])], exception_handlers=HANDLERS)
        listener = _listener(settings)
        self.port: int = listener.getsockname()[1]
        try:
            self._server = ThreadedServer(app, listener, "dicom-web", **_tls(settings))
        except OSError as error:
            listener.close()
            raise AlmenaError(f"dicom.web.tls: certificate or key cannot be used: {error}") from error

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self) -> None:
        """End after the requests in hand."""
        self._server.stop()

    async def _store(self, request: Request) -> Response:
        self._require_token(request)
        async with self._room_for(request):
            body = await self._body(request)
            try:
                instances = list(parts(body, boundary_of(request.headers.get("content-type", ""))))
            except MultipartError as error:
                self._counters.refused("multipart")
                raise Problem(400, "The body cannot be read", str(error)) from None
            del body
            stored = [await asyncio.to_thread(self._take, data) for data in instances]
            uids = [_uids(outcome, data) for outcome, data in zip(stored, instances, strict=True)]
        if not stored:
            raise Problem(400, "No instance in the request")
        kept = [outcome for outcome in stored if isinstance(outcome, Accepted)]
        status = 200 if len(kept) == len(stored) else 202 if kept else _failed(stored)
        return JSONResponse(_listed(stored, uids), status, media_type="application/dicom+json")

    def _take(self, data: bytes) -> Accepted | RefusedError:
        try:
            return self._intake.accept(data)
        except RefusedError as error:
            log.warning("an instance was refused: %s: %s", error.reason, error)
            return error

    def _require_token(self, request: Request) -> None:
        if not self._token:
            return
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._token.encode()):
            self._counters.refused("token")
            raise Problem(401, "Not authorised", "send the token of dicom.web.token_file", {"WWW-Authenticate": "Bearer"})

    @contextlib.asynccontextmanager
    async def _room_for(self, request: Request) -> AsyncIterator[None]:
        """Wait until what is in hand leaves memory for a body of the length that it says. Raises Problem where it says too much."""
        said = request.headers.get("content-length", "")
        size = int(said) if said.isdecimal() else self._limit
        self._require_fit(size)
        async with self._changed:
            await self._changed.wait_for(lambda: self._in_hand + size <= AT_ONCE * self._limit)
            self._in_hand += size
        try:
            yield
        finally:
            async with self._changed:
                self._in_hand -= size
                self._changed.notify_all()

    async def _body(self, request: Request) -> bytes:
        chunks, size, began = [], 0, time.monotonic()
        stream = request.stream()
        try:
            while True:
                too_slow_s = began + IDLE_S + size / SLOWEST - time.monotonic()
                chunk = await asyncio.wait_for(stream.__anext__(), min(IDLE_S, too_slow_s))
                size += len(chunk)
                self._require_fit(size)
                chunks.append(chunk)
        except StopAsyncIteration:
            return b"".join(chunks)
        except asyncio.TimeoutError:
            self._counters.refused("multipart")
            raise Problem(408, "Request timeout", f"the body stood still for {IDLE_S:g} s, or came too slowly: send it again") from None

    def _require_fit(self, size: int) -> None:
        if size > self._limit:
            self._counters.refused("too-large")
            raise Problem(413, "Too large", f"at most {self._limit} bytes in a request: send fewer instances at once")


def _failed(outcomes: list[Any]) -> int:
    return 503 if any(outcome.reason in ("no-space", "storage") for outcome in outcomes) else 409


def _uids(outcome: Accepted | RefusedError, data: bytes) -> dict[str, Any]:
    """By which a response refers to an instance: those that it has."""
    try:
        found = outcome.identity if isinstance(outcome, Accepted) else named(data)
    except UnusableError:
        return {}
    uids = {"00081150": found.sop_class, "00081155": found.instance}
    return {tag: {"vr": "UI", "Value": [text]} for tag, text in uids.items() if text and UID(text).is_valid}


def _listed(outcomes: list[Accepted | RefusedError], uids: list[dict[str, Any]]) -> dict[str, Any]:
    """Store Instances Response (PS3.18, annex I; JSON model of annex F)."""
    kept = [about for outcome, about in zip(outcomes, uids, strict=True) if isinstance(outcome, Accepted)]
    failed = [
        {**about, "00081197": {"vr": "US", "Value": [FAILURES.get(outcome.reason, CANNOT_UNDERSTAND)]}}
        for outcome, about in zip(outcomes, uids, strict=True)
        if isinstance(outcome, RefusedError)
    ]
    answer: dict[str, Any] = {}
    if kept:
        answer["00081199"] = {"vr": "SQ", "Value": kept}
    if failed:
        answer["00081198"] = {"vr": "SQ", "Value": failed}
    return answer


def _listener(settings: DicomWebSettings) -> socket.socket:
    try:
        return bound(settings.host, settings.port)
    except OSError as error:
        raise AlmenaError(f"dicom.web: {settings.host}:{settings.port} cannot be used: {error.strerror}") from error


def _tls(settings: DicomWebSettings) -> dict[str, Any]:
    if settings.tls is None:
        return {}
    options: dict[str, Any] = {"ssl_certfile": str(settings.tls.cert_file), "ssl_keyfile": str(handed(settings.tls.key_file))}
    if settings.tls.client_ca_file:
        options |= {"ssl_ca_certs": str(settings.tls.client_ca_file), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options
