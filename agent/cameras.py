"""The cameras of this machine."""

from __future__ import annotations

from pathlib import Path


def video_devices(folder: Path = Path("/dev")) -> list[Path]:
    """The device files of video, by their numbers."""
    return sorted(folder.glob("video[0-9]*"), key=lambda path: (len(path.name), path.name))
