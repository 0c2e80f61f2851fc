"""The vision process, through its control socket: streams and latencies. It may be down, and then the sample says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.uplink.vision_link import VisionError, VisionLink


class VisionCollector:
    """Asks `GET /health`, `/streams` and `/metrics`."""

    def __init__(self, control_socket: Path) -> None:
        self._link = VisionLink(control_socket)

    def collect(self) -> dict[str, Any]:
        """`state` is up, or down with the reason."""
        try:
            pid = self._link.get("/health")["pid"]
            return {"state": "up", "pid": pid, "streams": self._link.get("/streams"), "metrics": self._link.get("/metrics")}
        except VisionError as error:
            return {"state": "down", "reason": str(error)}
