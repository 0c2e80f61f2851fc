"""What the page needs of the uplink process besides the outbox."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any


@dataclass
class SmallStatus:
    """A broker's state as a test wants it."""

    state: str = "connected"
    text: str = "Connected to 127.0.0.1:1883 (MQTT 5)."
    published: int = 3

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def telemetry() -> dict[str, Any]:
    """A snapshot with the names of the real one."""
    return {
        "at": time.time(),
        "period_s": 30.0,
        "system": {
            "cpu_percent": 41.5, "cpu_count": 4, "load": [0.5, 0.4, 0.3], "uptime_s": 86400.0,
            "memory": {"total_bytes": 8 * 2**30, "available_bytes": 5 * 2**30, "used_percent": 37.5},
            "disk": {"total_bytes": 64 * 2**30, "free_bytes": 40 * 2**30, "used_percent": 37.5},
            "network": {"received_bytes": 123456, "sent_bytes": 654321},
            "temperatures_c": {"cpu/0": 51.0},
            "processes": {"uplink": {"pid": 1, "rss_bytes": 90 * 2**20}},
        },
        "jetson": {
            "gpu_percent": 40.0, "gpu_hz": 612e6, "temperatures_c": {"tj-thermal": 48.5}, "fans_percent": {"pwmfan": 30.0},
            "rails": {"VDD_IN": {"volts": 5.0, "amperes": 1.2, "watts": 6.0}}, "power_mode": "15W",
        },
        "missing": {},
    }  # fmt: skip
