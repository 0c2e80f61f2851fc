"""One sample of everything, each period, into the outbox."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from agent.datatypes import Event
from agent.outbox import Outbox, OutboxError
from agent.settings import Settings
from agent.uplink.status import UplinkStatus
from agent.uplink.telemetry.dicom import DicomCollector
from agent.uplink.telemetry.jetson import JetsonCollector
from agent.uplink.telemetry.sample import Reading
from agent.uplink.telemetry.system import SystemCollector
from agent.uplink.telemetry.vision import VisionCollector

log = logging.getLogger(__name__)


class TelemetryLoop:
    """A thread that builds a sample when it starts and then each `telemetry.period_s`, and appends it to the lane `telemetry`."""

    def __init__(self, settings: Settings, outbox: Outbox, status: UplinkStatus, jetson: JetsonCollector | None = None) -> None:
        self._period_s = settings.telemetry.period_s
        self._outbox = outbox
        self._status = status
        self._system = SystemCollector(settings.state_dir)
        self._vision = VisionCollector(settings.control_socket)
        self._jetson = jetson or JetsonCollector()
        self._dicom = DicomCollector(settings.state_dir) if settings.dicom else None
        self._latest: dict[str, Any] = {}
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread, after the sample under way unless that takes longer than `timeout` seconds."""
        self._stopping.set()
        self._woken.set()
        self._thread.join(timeout)

    def every(self, period_s: float) -> None:
        """From now on another period, beginning with a sample at once."""
        if period_s != self._period_s:
            self._period_s = period_s
            self._woken.set()

    def snapshot(self) -> dict[str, Any]:
        """The newest sample; empty before the first."""
        return self._latest

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            self._once()
            due = max(due + self._period_s, time.monotonic())
            if self._woken.wait(due - time.monotonic()) and not self._stopping.is_set():
                self._woken.clear()
                due = time.monotonic()

    def _once(self) -> None:
        try:
            self._latest = self._sample()
            event = Event("", "telemetry", {"samples": [self._latest]}, time.time(), time.monotonic_ns())
            self._outbox.append("telemetry", [event])
        except OutboxError as error:
            log.warning("a telemetry sample could not be stored: %s", error)
        except Exception:  # supervisor: one bad sample must not end telemetry for good
            log.exception("no telemetry sample this time")

    def _sample(self) -> dict[str, Any]:
        vision = self._vision.collect()
        sections = {"system": self._system.collect(vision.get("pid"))}
        if self._jetson.present:
            sections["jetson"] = self._jetson.collect()
        return {
            "at": time.time(),
            "period_s": self._period_s,
            **{name: reading.values for name, reading in sections.items()},
            "vision": vision,
            **({"dicom": self._dicom.collect()} if self._dicom else {}),
            "outbox": self._outbox.stats(),
            "mqtt": self._status.as_dict(),
            "missing": _missing(sections),
        }


def _missing(sections: dict[str, Reading]) -> dict[str, str]:
    return {f"{section}.{name}": why for section, reading in sections.items() for name, why in reading.missing.items()}
