"""The commands that a hub may give."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from agent.errors import UsageError
from agent.uplink.commands import Handler
from agent.uplink.status import UplinkStatus
from agent.uplink.vision_link import VisionError, VisionLink

Arguments = Mapping[str, Any]


class Actions:
    """What they do. `announce` publishes birth and reported state again; `again` takes over what the settings say now."""

    def __init__(self, vision: VisionLink, status: UplinkStatus, announce: Callable[[], None], again: Callable[[], None]) -> None:
        self._vision = vision
        self._status = status
        self._announce = announce
        self._again = again

    def table(self) -> dict[str, Handler]:
        """A line for each command."""
        return {
            "rebirth": self._rebirth,
            "reload": self._reload,
            "restart-stream": self._restart_stream,
            "status": self._answer_status,
            "tune": self._tune,
        }

    def _rebirth(self, _arguments: Arguments) -> None:
        self._announce()

    def _reload(self, _arguments: Arguments) -> Any:
        """Let both processes read the settings again: whether streams were started anew, and what takes a restart."""
        answer = self._vision.post("/reload")[1]
        self._again()
        return answer

    def _restart_stream(self, arguments: Arguments) -> Any:
        """`stream`: its name. Its source is opened anew, and its models are loaded again."""
        stream = text_of(arguments, "stream")
        return self._vision.post(f"/streams/{quote(stream, safe='')}/restart")[1]

    def _tune(self, arguments: Arguments) -> Any:
        """`model`: of the settings' streams, default: all of them; `budget_s`: for each. Begins it, and says that it goes on."""
        return self._vision.post("/tune", {name: arguments[name] for name in ("model", "budget_s") if name in arguments})[1]

    def _answer_status(self, _arguments: Arguments) -> dict[str, Any]:
        return {
            "uplink": self._status.as_dict(),
            "streams": from_vision(self._vision, "/streams"),
            "tuning": from_vision(self._vision, "/tune"),
            "at": time.time(),
        }


def from_vision(vision: VisionLink, path: str) -> Any:
    """An answer of the vision process, or why there is none."""
    try:
        return vision.get(path)
    except VisionError as error:
        return {"error": str(error)}


def text_of(arguments: Arguments, name: str) -> str:
    """An argument that must be there. Raises UsageError."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"args: {name}: is required, as text")
    return value
