"""Live detections at QoS 0, not more often than configured. What is lost is lost; events are the record."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from agent import wire
from agent.settings import Settings
from agent.uplink.commands import Publish
from agent.uplink.vision_link import VisionError, VisionLink

log = logging.getLogger(__name__)


class LiveDetections:
    """A thread that asks the vision process for what it shows now, and publishes it where there is something."""

    def __init__(self, settings: Settings, per_second: float, publish: Publish) -> None:
        self._device = settings.device.name
        self._vision = VisionLink(settings.control_socket)
        self._period_s = 1 / per_second
        self._publish = publish
        self._shown: dict[str, bool] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def start(self) -> None:
        """Start publishing."""
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            try:
                for health in self._vision.get("/streams"):
                    self._look(health)
            except (VisionError, ValueError) as error:
                log.debug("no live detections: %s", error)
                self._stop.wait(5.0)

    def _look(self, health: Mapping[str, Any]) -> None:
        """Publish what is in view, and once that there is nothing any more."""
        stream = health["stream"]
        seen = self._vision.get(f"/streams/{stream}/annotations")
        if not seen and not self._shown.get(stream):
            return
        self._shown[stream] = bool(seen)
        live = wire.Live(
            stream=stream,
            captured_at=health["last_frame_at"] or time.time(),
            width=health["width"],
            height=health["height"],
            detections=tuple(wire.LiveDetection.model_validate(each) for each in seen),
        )
        self._publish(wire.TOPICS["live"].of(self._device, stream=stream), wire.encode(live), qos=0)
