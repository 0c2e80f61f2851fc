"""A GStreamer pipeline through OpenCV: CSI cameras on Jetson, hardware decoders, anything GStreamer has."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from agent.config import Config
from agent.datatypes import Frame
from agent.errors import SourceError
from agent.vision.sources.live import LiveConfig, LiveSource


class CsiSettings(Config):
    """A CSI camera on a Jetson."""

    sensor_id: int = Field(0, ge=0, description="Number of the CSI port.")
    width: int = Field(1280, ge=16, le=16384, description="In pixels.")
    height: int = Field(720, ge=16, le=16384, description="In pixels.")
    rate: int = Field(30, ge=1, le=1000, description="Frames a second.")

    @property
    def pipeline(self) -> str:
        """NVIDIA's documented chain from the sensor to B, G, R in memory; only the newest frame is kept."""
        return (
            f"nvarguscamerasrc sensor-id={self.sensor_id} "
            f"! video/x-raw(memory:NVMM),width={self.width},height={self.height},format=NV12,framerate={self.rate}/1 "
            "! nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR "
            "! appsink drop=1 max-buffers=1 sync=false"
        )


class GStreamerConfig(LiveConfig):
    """A GStreamer pipeline."""

    type: Literal["gstreamer"] = "gstreamer"
    pipeline: str | None = Field(
        None, description="Ends with `video/x-raw,format=BGR ! appsink drop=1 max-buffers=1 sync=false`.", repr=False
    )
    csi: CsiSettings | None = Field(None, description="Instead of a pipeline: a CSI camera on a Jetson.")

    @model_validator(mode="after")
    def _one_pipeline(self) -> GStreamerConfig:
        if (self.pipeline is None) == (self.csi is None):
            raise ValueError("give pipeline or csi")
        if self.pipeline is not None and not re.search(r"!\s*appsink\b[^!]*$", self.pipeline):
            raise ValueError("the pipeline must end with `! appsink drop=1 max-buffers=1 sync=false`")
        return self

    @property
    def text(self) -> str:
        """The pipeline to run."""
        return self.csi.pipeline if self.csi else self.pipeline or ""


class GStreamerSource(LiveSource):
    """Frames of a pipeline that ends in an appsink."""

    Config = GStreamerConfig
    config: GStreamerConfig

    def __init__(self, config: GStreamerConfig, stream: str) -> None:
        super().__init__(config, stream)
        self._capture: Any = None
        self._rate: float | None = None

    @property
    def expected_per_second(self) -> float | None:
        return self._rate

    def open(self) -> None:
        import cv2

        if not has_gstreamer(cv2.getBuildInformation()):
            raise SourceError(
                "STREAM_LIBRARY_MISSING",
                "this OpenCV is built without GStreamer, as all wheels are; install the host's own (Debian: python3-opencv; "
                "Jetson: JetPack's), remove opencv-python*, and make the environment with --system-site-packages",
            )
        self._capture = cv2.VideoCapture(self.config.text, cv2.CAP_GSTREAMER)
        if not self._capture.isOpened():
            self.close()
            raise SourceError(
                "STREAM_NOT_FOUND", "the pipeline does not start; try it with gst-launch-1.0 (GST_DEBUG=2 names the element at fault)"
            )
        self._rate = self._capture.get(cv2.CAP_PROP_FPS) or None

    def read(self) -> Frame:
        ok, image = self._capture.read()
        if not ok:
            raise SourceError("STREAM_LOST", "the pipeline ended or gave no frame; GST_DEBUG=2 names the element at fault")
        return self._frame(image)

    def close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None


def has_gstreamer(build_information: str) -> bool:
    """Whether the text of cv2.getBuildInformation() says that GStreamer is built in (the constant exists in any build)."""
    return re.search(r"^\s*GStreamer:\s+YES", build_information, re.MULTILINE) is not None
