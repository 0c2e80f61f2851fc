"""A source and a task that a whole vision process runs; a test reaches into those that it has started."""

from __future__ import annotations

from typing import Literal

from agent.config import Config
from agent.settings import Settings
from tests.fakes.plugins import Camera, Counting

problems: list[Exception] = []
"""What the next starts of a task raise, one each."""
cameras: list[TestCamera] = []
tasks: list[TestTask] = []


class CameraConfig(Config):
    type: Literal["test-camera"]
    pace: float = 1.0


class TestCamera(Camera):
    __test__ = False
    Config = CameraConfig

    def __init__(self, config: CameraConfig, stream: str) -> None:
        super().__init__()
        self.config, self.stream = config, stream
        cameras.append(self)


class TaskConfig(Config):
    type: Literal["test-task"]
    card: str = "none"


class TestTask(Counting):
    __test__ = False
    Config = TaskConfig

    def __init__(self, config: TaskConfig, stream: str, settings: Settings) -> None:
        super().__init__()
        tasks.append(self)
        if problems:
            raise problems.pop(0)
