"""The host: processor, memory, disk, network, temperatures, and the agent's two processes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil

from agent.uplink.telemetry.sample import Reading, reason
from agent.uplink.telemetry.throttling import Throttling

LOOPBACK = "lo"


class SystemCollector:
    """Percentages of the processor are means since the last call; the first call has none."""

    def __init__(self, state_dir: Path, throttling: Throttling | None = None) -> None:
        self._state_dir = state_dir
        self._throttling = throttling or Throttling()
        self._processes: dict[str, psutil.Process] = {"uplink": psutil.Process()}
        self._primed: dict[str, int] = {}

    def collect(self, vision_pid: int | None) -> Reading:
        """Bytes, percent, seconds and degrees Celsius."""
        reading = Reading()
        self._processor(reading)
        memory = psutil.virtual_memory()
        reading.values["memory"] = {"total_bytes": memory.total, "available_bytes": memory.available, "used_percent": memory.percent}
        reading.values["uptime_s"] = round(time.clock_gettime(time.CLOCK_BOOTTIME), 1)
        self._disk(reading)
        self._network(reading)
        self._temperatures(reading)
        throttled = self._throttling.read()
        if throttled is None:
            reading.missing["throttled"] = "this host does not say whether it slows itself down"
        else:
            reading.values["throttled"] = throttled
        reading.values["processes"] = {}
        self._process("uplink", reading)
        self._vision(vision_pid, reading)
        return reading

    def _processor(self, reading: Reading) -> None:
        percent = psutil.cpu_percent()
        if self._first("host", 0):
            reading.missing["cpu_percent"] = "a mean over one period; the first period is not over"
        else:
            reading.values["cpu_percent"] = percent
        reading.values["cpu_count"] = psutil.cpu_count()
        reading.values["load"] = [round(value, 2) for value in psutil.getloadavg()]

    def _disk(self, reading: Reading) -> None:
        try:
            disk = psutil.disk_usage(str(self._state_dir))
        except OSError as error:
            reading.missing["disk"] = f"{self._state_dir}: {reason(error)}"
        else:
            reading.values["disk"] = {"total_bytes": disk.total, "free_bytes": disk.free, "used_percent": disk.percent}

    def _network(self, reading: Reading) -> None:
        cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name != LOOPBACK]
        if cards:
            reading.values["network"] = {
                "received_bytes": sum(card.bytes_recv for card in cards),
                "sent_bytes": sum(card.bytes_sent for card in cards),
            }
        else:
            reading.missing["network"] = "no network card but loopback"

    def _temperatures(self, reading: Reading) -> None:
        sensors = psutil.sensors_temperatures()
        found = {
            f"{chip}/{sensor.label or number}": sensor.current for chip, group in sensors.items() for number, sensor in enumerate(group)
        }
        if found:
            reading.values["temperatures_c"] = found
        else:
            reading.missing["temperatures_c"] = "this host shows no temperature sensor"

    def _process(self, name: str, reading: Reading) -> None:
        process = self._processes[name]
        try:
            with process.oneshot():
                values: dict[str, Any] = {"pid": process.pid, "rss_bytes": process.memory_info().rss}
                percent = process.cpu_percent()
        except psutil.Error as error:
            reading.missing[f"processes.{name}"] = str(error)
            return
        if not self._first(name, process.pid):
            values["cpu_percent"] = percent
        reading.values["processes"][name] = values

    def _vision(self, pid: int | None, reading: Reading) -> None:
        if pid is None:
            reading.missing["processes.vision"] = "the vision process does not answer"
            return
        known = self._processes.get("vision")
        try:
            if known is None or known.pid != pid:
                self._processes["vision"] = psutil.Process(pid)
        except psutil.Error as error:
            reading.missing["processes.vision"] = str(error)
            return
        self._process("vision", reading)

    def _first(self, name: str, pid: int) -> bool:
        first = self._primed.get(name) != pid
        self._primed[name] = pid
        return first
