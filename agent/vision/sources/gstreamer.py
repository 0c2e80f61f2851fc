"""A GStreamer pipeline: CSI cameras on Jetson, hardware decoders, anything GStreamer has.

It runs in a child process, gst-launch-1.0, which needs no binding for Python and no OpenCV with GStreamer, and takes a crash of
a plug-in on itself:

    pipeline of the settings ─► I420 ─► the newest frame only ─► YUV4MPEG2 ─► pipe ─► B, G, R
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from pydantic import ConfigDict, Field, model_validator

from agent.config import Config
from agent.datatypes import Frame
from agent.errors import SourceError
from agent.vision.sources.child import Child
from agent.vision.sources.live import LiveConfig, LiveSource, announced
from agent.vision.sources.y4m import Y4mReader

PROGRAM = "gst-launch-1.0"
INSTALL = "install gstreamer1.0-tools, gstreamer1.0-plugins-base and gstreamer1.0-plugins-good (apt)"
TAIL = (
    "! videoconvert ! video/x-raw,format=I420,colorimetry=bt601 "
    "! queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0 ! y4menc ! fdsink sync=false fd="
)
APPSINK = re.compile(r"!\s*appsink\b[^!]*$")
SHOWN_LINES, SHOWN_LENGTH = 3, 400
NOISE = re.compile(
    r"Additional debug info|ERROR: pipeline doesn't|Failed to set pipeline|Setting pipeline|Execution ended|\.\./|.*some element failed to"
)
FAILED = b"ERROR: "
PLACE = re.compile(r"^ERROR: from element \S*:(\S+): ")
SECRET = re.compile(r"(?i)(?:pw|pass|user|secret|token|key|auth|cookie|headers)[\w-]*\s*=\s*([^\n]{3,})")
ADDRESS = re.compile(r"(\w[\w+.-]*://)(?:\S*@)?([^\s/?#\"']+)[^\s\"']*")

NO_ELEMENT = re.compile(r'no element "([^"]+)"')
CODES = (
    (re.compile(r"unauthorized|not authorized|forbidden|permission denied|authentication", re.IGNORECASE), "STREAM_AUTH_FAILED"),
    (re.compile(r"certificate|\bTLS\b", re.IGNORECASE), "STREAM_TLS_CERTIFICATE"),
    (
        re.compile(r"missing a plug-in|no suitable plugins|type of stream|different type|not-negotiated", re.IGNORECASE),
        "STREAM_CODEC_UNSUPPORTED",
    ),
    (re.compile(r"timed? ?out", re.IGNORECASE), "STREAM_TIMEOUT"),
)
"""What the words of a pipeline that does not start mean; any others are STREAM_NOT_FOUND."""

T = TypeVar("T")


class CsiSettings(Config):
    """A CSI camera on a Jetson."""

    sensor_id: int = Field(0, ge=0, description="Number of the CSI port.")
    width: int = Field(1280, ge=16, le=16384, description="In pixels.")
    height: int = Field(720, ge=16, le=16384, description="In pixels.")
    rate: int = Field(30, ge=1, le=1000, description="Frames a second.")

    @property
    def pipeline(self) -> str:
        """NVIDIA's documented chain from the sensor to a picture in the processor's memory."""
        return (
            f"nvarguscamerasrc sensor-id={self.sensor_id} "
            f"! video/x-raw(memory:NVMM),width={self.width},height={self.height},format=NV12,framerate={self.rate}/1 "
            "! nvvidconv ! video/x-raw,format=I420"
        )


class GStreamerConfig(LiveConfig):
    """A GStreamer pipeline."""

    model_config = ConfigDict(hide_input_in_errors=True)

    type: Literal["gstreamer"] = "gstreamer"
    pipeline: str | None = Field(
        None,
        description="As for gst-launch-1.0, up to raw video in memory; an appsink at its end is left out. Everyone on this machine can see "
        "it in the list of processes, so a camera with a password belongs under `type: rtsp`.",
        repr=False,
    )
    csi: CsiSettings | None = Field(None, description="Instead of a pipeline: a CSI camera on a Jetson.")
    timeout_s: float = Field(20.0, gt=0, le=300, description="Limit for the start of the pipeline and for each frame.")

    @model_validator(mode="after")
    def _one_pipeline(self) -> GStreamerConfig:
        if (self.pipeline is None) == (self.csi is None):
            raise ValueError("give pipeline or csi")
        try:
            words = self.words
        except ValueError as error:
            raise ValueError(f"the pipeline cannot be split into words: {error}") from None
        if not words:
            raise ValueError("the pipeline is empty")
        return self

    @property
    def words(self) -> list[str]:
        """The pipeline to run, as arguments of gst-launch-1.0."""
        return shlex.split(self.csi.pipeline if self.csi else APPSINK.sub("", self.pipeline or ""))


class GStreamerSource(LiveSource):
    """Frames of a pipeline. A reader that is slow gets the newest one: the pipeline drops the others."""

    Config = GStreamerConfig
    config: GStreamerConfig

    def __init__(self, config: GStreamerConfig, stream: str) -> None:
        super().__init__(config, stream)
        self._child: Child | None = None
        self._reader: Y4mReader | None = None
        self._rate: float | None = None
        self._deadline = 0.0
        self._stopping = threading.Event()

    @property
    def expected_per_second(self) -> float | None:
        return self._rate

    def open(self) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise SourceError("STREAM_LIBRARY_MISSING", f"{PROGRAM} is not installed; {INSTALL}")
        options = [program, "-q", "--no-position", "--no-fault", "--"]
        child = Child(lambda pipe: [*options, *self.config.words, *f"{TAIL}{pipe}".split()], self._stopping, FAILED)
        reader = Y4mReader(lambda buffer: child.fill(buffer, self._deadline))
        self._child, self._reader = child, reader
        try:
            if not self._limited(reader.read_header):
                raise self._not_started(child)
        except InterruptedError:
            return
        self._rate = announced(reader.rate)

    def read(self) -> Frame | None:
        assert self._child is not None
        assert self._reader is not None
        try:
            image = self._limited(self._reader.read_picture)
        except InterruptedError:
            return None
        if image is None:
            raise self._ended(self._child)
        return self._frame(image)

    def interrupt(self) -> None:
        self._stopping.set()

    def close(self) -> None:
        self._reader = None
        if self._child is not None:
            self._child.close()
            self._child = None

    def _limited(self, step: Callable[[], T]) -> T:
        """What `step` reads within the limit of the settings."""
        assert self._child is not None
        self._deadline = time.monotonic() + self.config.timeout_s
        try:
            return step()
        except TimeoutError:
            said = self._said(self._child)
            advice = f"; it said: {said}" if said else "; check the camera, and try the pipeline with gst-launch-1.0 -v"
            raise SourceError("STREAM_TIMEOUT", f"no frame from the pipeline for {self.config.timeout_s:g} s{advice}") from None
        except ValueError as error:
            reason = f"the pipeline's picture changed its size, or its stream is damaged ({error}); it is started again"
            raise SourceError("STREAM_LOST", reason) from None

    def _not_started(self, child: Child) -> SourceError:
        status, said = child.result(), self._said(child)
        missing = NO_ELEMENT.search(said)
        if missing:
            return SourceError("STREAM_LIBRARY_MISSING", f"GStreamer has no element {missing[1]}; {_origin(missing[1])}")
        code = next((code for pattern, code in CODES if pattern.search(said)), "STREAM_NOT_FOUND")
        return SourceError(code, f"the pipeline does not start: {said or _end(status)}")

    def _ended(self, child: Child) -> SourceError:
        status, said = child.result(), self._said(child)
        return SourceError("STREAM_LOST", f"the pipeline ended: {said or _end(status)}")

    def _said(self, child: Child) -> str:
        """What the child said, from its first error on, without credentials."""
        lines = [*dict.fromkeys(line.strip() for line in child.said if line.strip() and not NOISE.match(line))]
        first = next((number for number, line in enumerate(lines) if line.startswith("ERROR")), max(0, len(lines) - SHOWN_LINES))
        text = "; ".join(PLACE.sub(r"\1: ", line) for line in lines[first : first + SHOWN_LINES])
        text = ADDRESS.sub(r"\1\2/…", text)
        for secret in SECRET.findall("\n".join(self.config.words)):
            text = text.replace(secret, "…")
        return text[:SHOWN_LENGTH]


def _origin(element: str) -> str:
    """Where an element of GStreamer comes from."""
    if element.startswith("nv"):
        return "it is part of NVIDIA's JetPack; on a Jetson install nvidia-l4t-gstreamer, in a container use NVIDIA's own image"
    if element in ("videoconvert", "y4menc", "fdsink", "queue"):
        return INSTALL
    return "install the package that holds it (gstreamer1.0-plugins-good, -bad, -ugly, -libav), or correct its name"


def _end(status: int | None) -> str:
    """How a process ended that said nothing."""
    if status is None:
        return f"{PROGRAM} hangs at its end"
    if status < 0:
        return f"{PROGRAM} was ended by {signal.Signals(-status).name}"
    return f"{PROGRAM} reached the end of its stream" if status == 0 else f"{PROGRAM} ended with code {status}"
