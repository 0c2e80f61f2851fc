"""The device's way to the hub's door: HTTPS with the device's certificate, to a server that the fleet's CA vouches for."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

from agent.errors import AlmenaError
from agent.https import Answer, ask
from agent.identity.address import Address
from agent.identity.errors import IdentityError
from agent.identity.folder import IdentityFolder
from agent.tls_settings import TlsSettings

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

PREFIX = "/door/1"
WITHIN_S = 15.0
LARGEST_ANSWER = 4 * 1024 * 1024
AGAIN = (408, 425, 429)
"""Answers, besides those from 500, after which the same may be asked again."""
OWN_CERTIFICATE = "is this device's certificate of the hub's fleet, and valid?"


class DoorError(AlmenaError):
    """The door did not answer, or cannot now: the same may be tried again later. `status` is that of HTTP, 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class DoorRefusedError(DoorError):
    """The door said no, and will say so again."""


class Door:
    """A new connection for each question; safe from any thread. What is renewed in the identity's folder is used at once."""

    def __init__(self, url: str, folder: IdentityFolder) -> None:
        self.url = url
        self._address = Address.of(url)
        self._folder = folder

    def get(self, path: str) -> bytes:
        """What is at `path`, below the door's prefix. Raises DoorError."""
        return self._ask("GET", path).content

    def put(self, path: str, body: bytes, kind: str) -> bytes:
        """Leave a body of a media type there; returns the answer. Raises DoorError."""
        return self._ask("PUT", path, body, kind).content

    def post(self, path: str, value: Any) -> Any:
        """Send a value as JSON; returns that of the answer. Raises DoorError."""
        content = self._ask("POST", path, json.dumps(value).encode(), "application/json").content
        try:
            return json.loads(content) if content else None
        except ValueError as error:
            raise DoorError(f"{self.url} answered what is no JSON: is it the address of the hub's door?") from error

    def connect(self, path: str) -> ClientConnection:
        """A WebSocket whose ends speak in turns. Raises DoorError.

        Its library reads in a thread of its own, and OpenSSL's connections are not made for two threads: what came while another one wrote
        could break them. So there are no pings here, and no session tickets or pings of the server.
        """
        from websockets.exceptions import InvalidHandshake, InvalidStatus
        from websockets.sync.client import connect

        host = f"[{self._address.host}]" if ":" in self._address.host else self._address.host
        uri = f"wss://{host}:{self._address.port}{self._address.path}{PREFIX}{path}"
        context = self._context()
        try:
            return connect(
                uri,
                ssl=context,
                compression=None,
                proxy=None,
                open_timeout=WITHIN_S,
                ping_interval=None,
                close_timeout=1.0,
                max_size=LARGEST_ANSWER,
            )
        except InvalidStatus as error:
            raise self._refusal(error.response.status_code, error.response.body or b"") from error
        except (OSError, ValueError, InvalidHandshake) as error:
            raise self._unreachable(error) from error

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Answer:
        headers = {"Content-Type": kind} if kind else {}
        context = self._context()
        try:
            answer = ask(self._address, method, PREFIX + path, context, body, headers, within_s=WITHIN_S, largest=LARGEST_ANSWER)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        if answer.status < 300:
            return answer
        raise self._refusal(answer.status, answer.content)

    def _refusal(self, status: int, content: bytes) -> DoorError:
        kind = DoorError if status in AGAIN or status >= 500 else DoorRefusedError
        return kind(f"{self.url} answered {status}{_said(content)}", status)

    def _context(self) -> ssl.SSLContext:
        pair = self._folder.device
        try:
            self._folder.pair()
            return TlsSettings.model_construct(ca_file=self._folder.ca, cert_file=pair, key_file=pair).context()
        except (IdentityError, OSError) as error:
            raise DoorError(f"the device's certificate cannot be used: {error}") from error

    def _unreachable(self, error: Exception) -> DoorError:
        host, port = self._address.host, self._address.port
        if isinstance(error, ssl.SSLCertVerificationError):
            return DoorError(f"the certificate of {self.url} is not accepted: {error.verify_message}; see hub.url, and the clocks")
        if isinstance(error, ssl.SSLError):
            return DoorError(f"no TLS with {self.url} ({error.reason or error}): {OWN_CERTIFICATE}")
        if isinstance(error, socket.gaierror):
            return DoorError(f"there is no host {host!r}: check hub.url and the name server")
        if isinstance(error, ConnectionRefusedError):
            return DoorError(f"nothing listens at {host}:{port}: check hub.url, and `door` in the hub's settings")
        if isinstance(error, TimeoutError):
            return DoorError(f"{host}:{port} does not answer: check the network")
        return DoorError(f"{host}:{port} broke off ({type(error).__name__}: {error}): {OWN_CERTIFICATE}")


def _said(content: bytes) -> str:
    """The text of a problem document, for people."""
    try:
        problem = json.loads(content)
        return f": {problem.get('detail') or problem['title']}"[:300]
    except (ValueError, KeyError, AttributeError):
        return ""
