"""A USB or built-in camera through Video4Linux."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from agent.cameras import video_devices
from agent.config import Line
from agent.datatypes import Frame
from agent.errors import SourceError
from agent.vision.sources.live import LiveConfig, LiveSource, announced

log = logging.getLogger(__name__)

DEVICES = Path("/dev")
BY_ID = DEVICES / "v4l" / "by-id"
BAD_PICTURES = 50


class V4l2Config(LiveConfig):
    """A camera of this machine."""

    type: Literal["v4l2"] = "v4l2"
    device: int | Line = Field(0, description="Index, path, or name in /dev/v4l/by-id, which stays the same when cameras are replugged.")
    width: int = Field(1280, ge=16, le=16384, description="In pixels.")
    height: int = Field(720, ge=16, le=16384, description="In pixels.")
    rate: float = Field(30.0, gt=0, le=1000, description="Frames a second.")
    mjpeg: bool = Field(True, description="Take JPEG from the camera: uncompressed video of this size rarely fits through USB.")


class V4l2Source(LiveSource):
    """Frames of a local camera, in the mode that the settings ask for as far as the camera has it."""

    Config = V4l2Config
    config: V4l2Config

    def __init__(self, config: V4l2Config, stream: str) -> None:
        super().__init__(config, stream)
        self._capture: Any = None
        self._path = device_path(config.device)
        self._rate: float | None = None

    @property
    def expected_per_second(self) -> float | None:
        return self._rate

    def open(self) -> None:
        import cv2

        check_device(self._path)
        self._capture = cv2.VideoCapture(str(self._path.resolve()), cv2.CAP_V4L2)
        if not self._capture.isOpened():
            self.close()
            raise SourceError("STREAM_NOT_FOUND", f"{self._path} is no camera that can be opened; perhaps another program uses it")
        for difference in configure(self._capture, self.config):
            log.warning("%s: %s: %s", self.stream, self._path, difference)
        self._rate = announced(self._capture.get(cv2.CAP_PROP_FPS))

    def read(self) -> Frame:
        for _ in range(BAD_PICTURES):
            if not self._capture.grab():
                raise self._silent()
            ok, image = self._capture.retrieve()
            if ok:
                return self._frame(image)
            self._leave_out("the camera's picture cannot be decoded")
        raise SourceError("STREAM_DAMAGED", f"{self._path}: {BAD_PICTURES} pictures in a row cannot be decoded; try another cable or port")

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _silent(self) -> SourceError:
        if not self._path.exists():
            return SourceError("STREAM_LOST", f"{self._path} was unplugged")
        return SourceError("STREAM_TIMEOUT", f"{self._path} gives no frame; replug it or try a lower width, height or rate")


def device_path(device: int | str) -> Path:
    """The device file that an index, a path or a name in /dev/v4l/by-id stands for."""
    if isinstance(device, int) or device.isdigit():
        return DEVICES / f"video{device}"
    return Path(device) if "/" in device else BY_ID / device


def check_device(path: Path) -> None:
    """Raise SourceError with the way out if `path` is missing or closed to this user."""
    if not path.exists():
        stable = [str(found) for found in sorted(BY_ID.glob("*"))]
        there = stable or [str(found) for found in video_devices(DEVICES)]
        cameras = f"cameras here: {', '.join(there)}" if there else "this machine shows no camera; plug one in"
        raise SourceError(
            "STREAM_NOT_FOUND",
            f"there is no camera {path}; {cameras}. In a container pass the device in; the user also needs the group `video`",
        )
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(
            "STREAM_AUTH_FAILED",
            f"{path}: permission denied; add the user to the group `video` (sudo usermod -aG video USER) and log in again",
        )


def configure(capture: Any, config: V4l2Config) -> list[str]:
    """Set the mode of an open capture: pixel format first, because sizes and rates depend on it. Returns what the camera gave instead."""
    import cv2

    wanted = {cv2.CAP_PROP_FRAME_WIDTH: config.width, cv2.CAP_PROP_FRAME_HEIGHT: config.height, cv2.CAP_PROP_FPS: config.rate}
    jpeg = cv2.VideoWriter.fourcc(*"MJPG")
    if config.mjpeg:
        capture.set(cv2.CAP_PROP_FOURCC, jpeg)
    for name, value in {**wanted, cv2.CAP_PROP_BUFFERSIZE: 1}.items():
        capture.set(name, value)
    words = dict(zip(wanted, ("width", "height", "rate"), strict=True))
    differences = [
        f"{words[name]} {value:g} was asked for, the camera gives {capture.get(name):g}"
        for name, value in wanted.items()
        if abs(capture.get(name) - value) > 0.5
    ]
    if config.mjpeg and int(capture.get(cv2.CAP_PROP_FOURCC)) != jpeg:
        differences.append("MJPEG was asked for, the camera gives another format")
    return differences
