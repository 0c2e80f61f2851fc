"""What live sources share: their settings, and the time stamp of a frame."""

from __future__ import annotations

import time
from typing import Any

from pydantic import Field

from agent.config import Config
from agent.datatypes import Frame, Image
from agent.vision.base import Source
from agent.vision.health import HealthSettings


class LiveConfig(Config):
    """Settings of every live source."""

    health: HealthSettings = Field(HealthSettings(), description="When the stream counts as broken although it is connected.")


class LiveSource(Source):
    """A source of which only the newest frame counts."""

    def __init__(self, config: Any, stream: str) -> None:
        super().__init__(config, stream)
        self._index = 0

    @property
    def finite(self) -> bool:
        return False

    def _frame(self, image: Image) -> Frame:
        """`image` as a frame that was captured now."""
        frame = Frame(image, self.stream, self._index, time.time(), time.monotonic_ns())
        self._index += 1
        return frame
