"""What live sources share: their settings, and the time stamp of a frame."""

from __future__ import annotations

import logging
import time
from typing import Any

from pydantic import Field

from agent.config import Config
from agent.datatypes import Frame, Image
from agent.vision.base import Source
from agent.vision.health import HealthSettings

log = logging.getLogger(__name__)

HIGHEST_RATE = 1000.0
SAY_AGAIN_S = 60.0


class LiveConfig(Config):
    """Settings of every live source."""

    health: HealthSettings = Field(HealthSettings(), description="When the stream counts as broken although it is connected.")


class LiveSource(Source):
    """A source of which only the newest frame counts."""

    def __init__(self, config: Any, stream: str) -> None:
        super().__init__(config, stream)
        self._index = 0
        self.damaged = 0
        """Pictures that were left out because they cannot be decoded, since the start."""
        self._said_at = float("-inf")

    @property
    def finite(self) -> bool:
        return False

    def _frame(self, image: Image) -> Frame:
        """`image` as a frame that was captured now."""
        frame = Frame(image, self.stream, self._index, time.time(), time.monotonic_ns())
        self._index += 1
        return frame

    def _leave_out(self, reason: str) -> None:
        """Count a picture that cannot be decoded; the log has one line a minute on them."""
        self.damaged += 1
        now = time.monotonic()
        if now - self._said_at >= SAY_AGAIN_S:
            self._said_at = now
            log.warning("%s: a picture is left out, %d since the start: %s", self.stream, self.damaged, reason)


def announced(rate: float | None) -> float | None:
    """The rate that a camera says it has, in frames a second; None if that cannot be."""
    return rate if rate and 0 < rate <= HIGHEST_RATE else None
