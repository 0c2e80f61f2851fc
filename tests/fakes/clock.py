"""A clock that the test turns."""

from __future__ import annotations

from agent.clock import Clock


class FakeClock(Clock):
    """Starts synchronised, in 2023, ten seconds after its boot."""

    def __init__(self, boot: str = "boot-1") -> None:
        super().__init__()
        self.boot = boot
        self.wall_s = 1_700_000_000.0
        self.mono_s = 10.0
        self.synced = True

    @property
    def boot_id(self) -> str:
        return self.boot

    def wall(self) -> float:
        return self.wall_s

    def mono_ns(self) -> int:
        return int(self.mono_s * 1e9)

    def synchronised(self) -> bool:
        return self.synced

    def pass_time(self, seconds: float) -> None:
        self.wall_s += seconds
        self.mono_s += seconds

    def reboot(self, boot: str) -> None:
        self.boot, self.mono_s = boot, 10.0
