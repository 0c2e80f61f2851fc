"""The enrolment endpoint: HTTPS, below /enrol/1/. The hub may mount `router` under its own address."""

from __future__ import annotations

import errno
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from fastapi import APIRouter, FastAPI, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from agent.identity.protocol import PREFIX, Ca, Issued, Join, Message, Renew, Waiting
from agent.notify import notify
from agent.serving import HANDLERS, Problem, ThreadedServer, body_of, bound
from provisioning.ca import Authority, write_private
from provisioning.enrolment import Enrolment
from provisioning.errors import FleetError, RefusedError, TooOftenError, writing
from provisioning.settings import Fleet
from provisioning.upkeep import Upkeep

log = logging.getLogger(__name__)

LARGEST_BODY = 16384
SERVER_LIFETIME = timedelta(days=90)
LISTEN_ADVICE = {
    errno.EADDRINUSE: "stop what uses it (ss -ltnp), or give another --port",
    errno.EACCES: "ports below 1024 are root's: give another --port",
}
LOOK_EVERY_S, ENDS_WITHIN_S = 10.0, 10.0
B = TypeVar("B", bound=Message)


def router(enrolment: Enrolment) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix=PREFIX)

    @routes.get("/ca")
    def ca() -> Ca:
        return Ca(certificate=enrolment.authority.pem.decode(), time=time.time())

    @routes.post("/join")
    async def join(request: Request) -> Response:
        return await _answer(enrolment, request, Join, enrolment.join)

    @routes.post("/renew")
    async def renew(request: Request) -> Response:
        return await _answer(enrolment, request, Renew, enrolment.renew)

    @routes.post("/claim")
    async def claim(request: Request) -> Response:
        return await _answer(enrolment, request, Renew, enrolment.claim)

    return routes


async def _answer(enrolment: Enrolment, request: Request, kind: type[B], decide: Callable[[B, str], Issued | Waiting]) -> Response:
    """Who asked too often is not heard: that costs next to nothing, however often he comes."""
    address = request.client.host if request.client else "?"
    wait, refused = enrolment.limit.take(address)
    if wait:
        if refused & (refused - 1) == 0:
            log.warning("%s asked too often and is not heard for now; %d requests of it so far", address, refused)
        raise _too_often(wait)
    try:
        body = kind.model_validate_json(await body_of(request, LARGEST_BODY))
    except Problem as error:
        log.warning("%s from %s: refused: %s", request.url.path, address, error.title)
        raise
    except ValidationError as error:
        log.warning("%s from %s: refused: not a request of this protocol", request.url.path, address)
        raise Problem(400, "No request of this protocol", "Use `almena join` of the same version.") from error
    try:
        answer = await run_in_threadpool(decide, body, address)
    except TooOftenError as error:
        raise _too_often(error.wait_s) from error
    except RefusedError as error:
        raise Problem(403, "Refused", str(error)) from error
    except sqlite3.Error as error:
        enrolment.limit.give_back(address, 1.0)
        log.error(
            "%s from %s is not answered: the register cannot be written (%s): make room on the disk", request.url.path, address, error
        )
        raise Problem(503, "The register cannot be written") from error
    return JSONResponse(answer.model_dump(), 202 if isinstance(answer, Waiting) else 200)


def _too_often(wait: float) -> Problem:
    return Problem(429, "Too many requests", headers={"Retry-After": str(math.ceil(wait))})


def app(enrolment: Enrolment) -> FastAPI:
    """The endpoint alone."""
    found = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, exception_handlers=HANDLERS)
    found.include_router(router(enrolment))
    return found


class EnrolServer:
    """`almena fleet enrol-server`: its certificate is signed by the CA that the devices know, and made anew long before it ends."""

    def __init__(self, fleet: Fleet, enrolment: Enrolment, host: str, port: int) -> None:
        """Raises FleetError where it cannot listen."""
        name = fleet.address.host
        self._names = [name, *({"localhost", "127.0.0.1"} - {name})]
        self._authority: Authority = enrolment.authority
        self._file = fleet.folder / "server.pem"
        self._renew_at = 0.0
        try:
            listener = bound(host, port)
        except (OSError, UnicodeError) as error:
            why, number = getattr(error, "strerror", None) or "no address", getattr(error, "errno", None)
            advice = LISTEN_ADVICE.get(number or 0, "--host is an address of this machine, or a name of one")
            raise FleetError(f"cannot listen at {host}:{port} ({why}): {advice}") from error
        try:
            with writing(self._file):
                self._write_certificate()
        except FleetError:
            listener.close()
            raise
        self.port: int = listener.getsockname()[1]
        self._server = ThreadedServer(app(enrolment), listener, "enrolment", ssl_certfile=str(self._file), ssl_keyfile=str(self._file))

    def start(self) -> None:
        """Answer from now on."""
        self._server.start()

    def stop(self) -> None:
        """End it."""
        self._server.stop()

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._server.alive

    def look(self) -> None:
        """Called now and then: a new certificate, when two thirds of the time of the old one are over. While that fails, the old one."""
        if time.time() < self._renew_at:
            return
        try:
            self._write_certificate()
        except OSError as error:
            log.error("%s cannot be renewed (%s): make room on the disk; it is tried again", self._file, error.strerror)

    def _write_certificate(self) -> None:
        pair = self._authority.server(self._names, SERVER_LIFETIME)
        write_private(self._file, pair.pem)
        self._renew_at = pair.begins + (pair.ends - pair.begins) * 2 / 3


def serve(server: EnrolServer, upkeep: Upkeep, watching: Callable[[], None] | None, stopping: threading.Event) -> None:
    """Answer until `stopping` is set, with `watching` in a thread beside. Raises FleetError where one of the two ends by itself."""
    watch = threading.Thread(target=watching, name="watch", daemon=True) if watching else None
    server.start()
    if watch:
        watch.start()
    notify("READY=1")
    try:
        while not stopping.wait(LOOK_EVERY_S):
            if not server.alive or (watch and not watch.is_alive()):
                raise FleetError("a part of the enrolment server has ended by itself; its log says why")
            server.look()
            upkeep.look()
            notify("WATCHDOG=1")
    finally:
        notify("STOPPING=1")
        stopping.set()
        server.stop()
        if watch:
            watch.join(ENDS_WITHIN_S)
