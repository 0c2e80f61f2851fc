"""A served model whose calls wait, and sockets that end."""

from __future__ import annotations

import socket
import threading
from typing import Any

from agent.vision.inference.models import Serving


class Gate:
    """Holds an engine's calls until it is opened."""

    def __init__(self, serving: Serving) -> None:
        self._open = threading.Event()
        self.calls = 0
        batcher = serving.model("small").running.batcher
        call = batcher._call

        def held(*arguments: Any) -> None:
            self.calls += 1
            assert self._open.wait(60)
            call(*arguments)

        batcher._call = held  # type: ignore[method-assign]

    def open(self) -> None:
        self._open.set()


class ExitingSockets:
    """Connections that are all closed at the end."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> ExitingSockets:
        return self

    def open(self, host: str, port: int) -> socket.socket:
        self._sockets.append(socket.create_connection((host, port), 60))
        return self._sockets[-1]

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.close()
