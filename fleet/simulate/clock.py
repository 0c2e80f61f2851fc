"""The clock of a simulated device: right, or wrong on command."""

from __future__ import annotations

import time
import uuid

from agent.clock import Clock, kernel_boot_id


class DeviceClock(Clock):
    """`off_s`: how far its wall clock is from the true time; while that is set it says that it is not synchronised."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self._boot_id = str(uuid.uuid5(uuid.UUID(kernel_boot_id()), device))
        self.off_s: float | None = None

    @property
    def boot_id(self) -> str:
        """One for each device, the same until the machine starts anew."""
        return self._boot_id

    def wall(self) -> float:
        """Unix time in seconds, as the device has it."""
        return time.time() + (self.off_s or 0.0)

    def synchronised(self) -> bool:
        """Whether it is right."""
        return self.off_s is None
