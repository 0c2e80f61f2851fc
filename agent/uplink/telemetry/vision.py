"""The vision process, through its control socket: streams and latencies. It may be down, and then the sample says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.uplink.vision_link import VisionError, VisionLink

ENGINE = ("model", "backend", "precision", "why")


class VisionCollector:
    """Asks `GET /health`, `/streams`, `/metrics` and `/engines`; of the engines it keeps which run, and why."""

    def __init__(self, control_socket: Path) -> None:
        self._link = VisionLink(control_socket)

    def collect(self) -> dict[str, Any]:
        """`state` is up, or down with the reason."""
        try:
            pid = self._link.get("/health")["pid"]
            engines = [{key: engine.get(key, "") for key in ENGINE} for engine in self._link.get("/engines")]
            figures = {"streams": self._link.get("/streams"), "metrics": self._link.get("/metrics")}
            return {"state": "up", "pid": pid, **figures, "engines": engines}
        except VisionError as error:
            return {"state": "down", "reason": str(error)}
