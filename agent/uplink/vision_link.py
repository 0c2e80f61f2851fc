"""Questions to the vision process over its Unix socket, for code that may block."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from agent.errors import AlmenaError

ANSWERS_WITHIN_S = 10.0


class VisionError(AlmenaError):
    """The vision process is not there, or refused. The message is for people."""


class VisionLink:
    """A new connection for each question; safe from any thread."""

    def __init__(self, control_socket: Path) -> None:
        self._path = control_socket

    def get(self, path: str) -> Any:
        """The JSON at `path`. Raises VisionError."""
        return self._ask("GET", path)[1]

    def post(self, path: str) -> tuple[int, Any]:
        """Status and JSON of the answer. Raises VisionError."""
        return self._ask("POST", path)

    def _ask(self, method: str, path: str) -> tuple[int, Any]:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise VisionError(f"the vision process does not answer ({type(error).__name__}); see its log") from error
        finally:
            connection.close()
        if answer.status >= 400:
            detail = body.get("detail", "") if isinstance(body, dict) else ""
            raise VisionError(f"the vision process answered {answer.status}: {detail}")
        return answer.status, body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("vision", timeout=ANSWERS_WITHIN_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
