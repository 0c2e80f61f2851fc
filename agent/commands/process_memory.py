"""How much memory a process took."""

from __future__ import annotations

from pathlib import Path

from agent.errors import AlmenaError


def peak_mb(pid: int) -> float:
    """The most memory that a process had resident, in MB (VmHWM of proc(5))."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise AlmenaError(f"/proc/{pid}/status tells no VmHWM")
