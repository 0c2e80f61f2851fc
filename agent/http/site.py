"""Where pages are served, and how their errors look."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from agent.config import LOOPBACK
from agent.errors import AlmenaError
from agent.handed import handed
from agent.serving import HANDLERS, ThreadedServer, bound, problem_response
from agent.tls_settings import WebTlsSettings

log = logging.getLogger(__name__)


class Where(Protocol):
    """A section `web` of settings."""

    @property
    def host(self) -> str:
        """The address to listen on."""
        ...

    @property
    def port(self) -> int:
        """0 takes a free one."""
        ...

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Further names of this host."""
        ...

    @property
    def tls(self) -> WebTlsSettings | None:
        """Certificate and key."""
        ...


@dataclass(frozen=True)
class Site:
    """An address, its names, and whether it is HTTPS."""

    host: str
    allowed_hosts: tuple[str, ...]
    tls: bool

    @classmethod
    def of(cls, where: Where) -> Site:
        """The site that settings describe."""
        return cls(where.host, where.allowed_hosts, where.tls is not None)

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host in LOOPBACK

    @property
    def scheme(self) -> str:
        """http or https"""
        return "https" if self.tls else "http"

    @property
    def cookie(self) -> str:
        """Of the session. The `__Host-` prefix makes browsers insist on TLS, this very host and path `/`."""
        return "__Host-almena" if self.tls else "almena"


async def on_invalid(_request: Request, error: RequestValidationError) -> Response:
    """Exception handler: a request that does not fit its description."""
    problems = [{"field": ".".join(map(str, found["loc"][1:])), "message": found["msg"]} for found in error.errors()]
    detail = "; ".join(f"{found['field']}: {found['message']}" if found["field"] else found["message"] for found in problems)
    return problem_response(422, "The request is not valid", detail, members={"errors": problems})


ALL_HANDLERS = {**HANDLERS, RequestValidationError: on_invalid}


def listen(where: Where) -> socket.socket:
    """A socket there. Raises AlmenaError where that cannot be."""
    try:
        return bound(where.host, where.port)
    except socket.gaierror as error:
        raise AlmenaError(f"web.host: {where.host} is no address of this machine: {error.strerror}") from error
    except OSError as error:
        raise AlmenaError(f"the page cannot be served at {where.host}:{where.port}: {error.strerror}; choose another web.port") from error


def url(where: Where, listener: socket.socket) -> str:
    """The address for a browser."""
    name: Any = listener.getsockname()
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(where.host, where.host)
    return f"{'https' if where.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{name[1]}/"


def tls_options(where: Where) -> dict[str, str]:
    """What uvicorn is told of the certificate."""
    return {"ssl_certfile": str(where.tls.cert_file), "ssl_keyfile": str(handed(where.tls.key_file))} if where.tls else {}


class PageServer(ThreadedServer):
    """What a section `web` describes, while it is served. Raises AlmenaError when the address or the certificate cannot be used."""

    def __init__(self, where: Where, made: Callable[[Callable[[], bool]], ASGIApp]) -> None:
        """`made` gives the application; long answers of it end once what it is given is true."""
        listener = listen(where)
        self.url = url(where, listener)
        try:
            super().__init__(made(lambda: self.stopping), listener, "web", **tls_options(where))
        except OSError as error:
            listener.close()
            raise AlmenaError(f"web.tls: certificate or key cannot be used: {error}") from error

    def start(self) -> None:
        """Begin to answer."""
        super().start()
        log.info("the page is at %s", self.url)
