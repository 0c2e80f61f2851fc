"""TensorRT's log: kept, so that an error can say what TensorRT said."""

from __future__ import annotations

import logging
import threading
from collections import deque

import tensorrt as trt

log = logging.getLogger(__name__)

KEPT = 400


class Log(trt.ILogger):  # type: ignore[misc]
    """What TensorRT takes as its logger. It keeps warnings, errors, and where layers run; TensorRT has one logger in a process."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._lock = threading.Lock()
        self._lines: deque[tuple[bool, str]] = deque(maxlen=KEPT)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from any of its threads."""
        if int(severity) <= int(trt.ILogger.Severity.ERROR):
            self._keep(True, msg)
        elif int(severity) == int(trt.ILogger.Severity.WARNING) or "Layer] " in msg:
            self._keep(False, msg)
        log.debug("%s", msg)

    def _keep(self, bad: bool, line: str) -> None:
        with self._lock:
            self._lines.append((bad, line))

    def clear(self) -> None:
        """Forget what was said before."""
        with self._lock:
            self._lines.clear()

    def errors(self) -> str:
        """The errors, or else the last warning, in one line."""
        with self._lock:
            bad = [line for wrong, line in self._lines if wrong] or [line for _, line in self._lines][-1:]
        return " ".join("; ".join(bad).split())[:600] or "TensorRT says nothing"

    def on_gpu(self) -> list[str]:
        """The layers that a build for a DLA left to the GPU."""
        with self._lock:
            return [line.partition("[GpuLayer]")[2].strip() for _, line in self._lines if "[GpuLayer]" in line]


LOG = Log()
