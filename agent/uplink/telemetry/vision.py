"""The vision process, through its control socket: streams and latencies. It may be down, and then the sample says so."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx

from agent.uplink.telemetry.sample import reason

if TYPE_CHECKING:
    from typing_extensions import Self

TIMEOUT_S = 3.0


class VisionCollector:
    """Asks `GET /health`, `/streams` and `/metrics`."""

    def __init__(self, control_socket: Path) -> None:
        self._client = httpx.Client(transport=httpx.HTTPTransport(uds=str(control_socket)), base_url="http://vision", timeout=TIMEOUT_S)

    def collect(self) -> dict[str, Any]:
        """`state` is up, or down with the reason."""
        try:
            pid = self._get("/health")["pid"]
            return {"state": "up", "pid": pid, "streams": self._get("/streams"), "metrics": self._get("/metrics")}
        except (httpx.HTTPError, ValueError, KeyError) as error:
            return {"state": "down", "reason": reason(error)}

    def close(self) -> None:
        """Free the connection."""
        self._client.close()

    def _get(self, path: str) -> Any:
        return self._client.get(path).raise_for_status().json()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
