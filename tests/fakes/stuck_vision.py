"""The vision process with a task that hangs in its library, and with less patience: `python -m tests.fakes.stuck_vision SETTINGS`."""

from __future__ import annotations

import sys
import threading
from typing import Any, Literal

from agent import registry
from agent.config import Config
from agent.datatypes import Event, Frame
from agent.vision import __main__ as process
from agent.vision.base import Task


class HangingConfig(Config):
    """Nothing to set."""

    type: Literal["hanging"] = "hanging"


class Hanging(Task):
    """Never comes back from its model work."""

    Config = HangingConfig

    def __init__(self, *_: object) -> None:
        """Nothing to load."""

    def infer(self, frame: Frame) -> Any:
        threading.Event().wait()

    def update(self, frame: Frame, prediction: Any) -> list[Event]:
        return []


if __name__ == "__main__":
    registry.TASKS["hanging"] = "tests.fakes.stuck_vision:Hanging"
    process.STUCK_AFTER_S, process.GIVE_UP_AFTER_S = 1.5, 4.0
    sys.exit(process.main())
