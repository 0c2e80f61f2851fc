"""Questions to the vision process over its Unix socket, for code that may block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from agent.errors import AlmenaError

ANSWERS_WITHIN_S = 10.0


class VisionError(AlmenaError):
    """The vision process is not there, or refused. The message is for people."""


class VisionLink:
    """One connection, one thread."""

    def __init__(self, control_socket: Path) -> None:
        transport = httpx.HTTPTransport(uds=str(control_socket))
        self._client = httpx.Client(transport=transport, base_url="http://vision", timeout=ANSWERS_WITHIN_S)

    def get(self, path: str) -> Any:
        """The JSON at `path`. Raises VisionError."""
        return self._ask("GET", path).json()

    def post(self, path: str) -> httpx.Response:
        """Raises VisionError."""
        return self._ask("POST", path)

    def close(self) -> None:
        """Free the connection."""
        self._client.close()

    def _ask(self, method: str, path: str) -> httpx.Response:
        try:
            answer = self._client.request(method, path)
        except httpx.TransportError as error:
            raise VisionError(f"the vision process does not answer; see its log ({type(error).__name__})") from error
        if answer.is_error:
            raise VisionError(f"the vision process answered {answer.status_code}: {_detail(answer)}")
        return answer


def _detail(answer: httpx.Response) -> str:
    """The detail of a problem document (RFC 9457), or nothing."""
    try:
        return str(answer.json().get("detail", ""))
    except (ValueError, AttributeError):
        return ""
