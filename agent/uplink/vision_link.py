"""Questions to the vision process over its Unix socket, for code that may block."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from agent.errors import AlmenaError

ANSWERS_WITHIN_S = 10.0
REFUSED = (404, 409, 422)


class VisionError(AlmenaError):
    """The vision process is not there, or refused. The message is for people."""


class VisionRefusedError(VisionError):
    """The vision process has looked at what it was asked for, and refuses it."""


class VisionLink:
    """A new connection for each question; safe from any thread."""

    def __init__(self, control_socket: Path) -> None:
        self._path = control_socket

    def get(self, path: str) -> Any:
        """The JSON at `path`. Raises VisionError."""
        return self._ask("GET", path)[1]

    def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of the answer. Raises VisionError; VisionRefusedError with the reason for what cannot be carried out."""
        return self._ask("POST", path, body)

    def picture(self, path: str) -> tuple[bytes, int] | None:
        """The JPEG at `path`, and the number of its frame, 0 where it has none; None while there is no new one. Raises VisionError."""
        status, content, headers = self._exchange("GET", path)
        return None if status == 204 else (content, int(headers.get("X-Almena-Picture", "0")))

    def delete(self, path: str) -> None:
        """Take away what is at `path`. Raises VisionError."""
        self._exchange("DELETE", path)

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, content, _ = self._exchange(method, path, body)
        try:
            return status, json.loads(content)
        except ValueError as error:
            raise _silent(error) from error

    def _exchange(self, method: str, path: str, body: Any = None) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            status, content = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise _silent(error) from error
        finally:
            connection.close()
        if status >= 400:
            raise _refused(status, content)
        return status, content, answer.headers


def _silent(error: Exception) -> VisionError:
    return VisionError(f"the vision process does not answer ({type(error).__name__}); see its log")


def _refused(status: int, content: bytes) -> VisionError:
    try:
        said = json.loads(content)
    except ValueError as error:
        return _silent(error)
    detail = (said.get("detail") or said.get("title", "")) if isinstance(said, dict) else ""
    return VisionRefusedError(detail) if status in REFUSED else VisionError(f"the vision process answered {status}: {detail}")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("vision", timeout=ANSWERS_WITHIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
