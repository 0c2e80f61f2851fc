"""NVIDIA Jetson: GPU load, power rails and thermal zones from sysfs; fans and power mode from jetson-stats where its service runs.

sysfs, JetPack 6 and 7: devfreq `load` in tenths of a percent; INA3221 `inN_input` in mV and `currN_input` in mA (Orin);
INA238 `power1_input` in µW (Thor); thermal zones in thousandths of a degree, minus 256 °C means switched off.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.uplink.telemetry.sample import Reading, reason
from engines.files import text_of

GPUS = ("ga10b", "gv11b", "gp10b", "gpu")
SUM_CHANNEL = 7
OFF_C = -256.0
JTOP_TIMEOUT_S = 5.0


class JetsonCollector:
    """`root` stands for `/`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._jtop = _JetsonStats()

    @property
    def present(self) -> bool:
        """Whether this is a Jetson."""
        return (self._root / "etc/nv_tegra_release").is_file()

    def collect(self) -> Reading:
        """GPU percent and hertz, rails in volt, ampere and watt, zones in degrees Celsius."""
        reading = Reading()
        self._gpu(reading)
        self._rails(reading)
        self._zones(reading)
        if (self._root / "run/jtop.sock").exists():
            self._jtop.collect(reading)
        return reading

    def _gpu(self, reading: Reading) -> None:
        for item in sorted((self._root / "sys/class/devfreq").glob("*")):
            name = item / "device/of_node/name"
            if name.is_file() and name.read_text().rstrip("\0\n") in GPUS:
                reading.number("gpu_percent", item / "device/load", 10.0)
                reading.number("gpu_hz", item / "cur_freq", 1.0)
                return
        reading.missing["gpu_percent"] = "no GPU below /sys/class/devfreq"

    def _rails(self, reading: Reading) -> None:
        rails: dict[str, dict[str, float]] = {}
        for chip in sorted((self._root / "sys/class/hwmon").glob("hwmon*")):
            name = text_of(chip / "name")
            if name == "ina3221":
                rails.update(_ina3221(chip, reading))
            elif name == "ina238":
                self._ina238(chip, rails, reading)
        if rails:
            reading.values["rails"] = rails
        else:
            reading.missing["rails"] = "no INA3221 or INA238 below /sys/class/hwmon"

    def _ina238(self, chip: Path, rails: dict[str, dict[str, float]], reading: Reading) -> None:
        label = text_of(chip / "device/label") or text_of(chip / "label") or chip.name
        power = Reading()
        power.number("watts", chip / "power1_input", 1e6)
        if power.missing:
            reading.missing[f"rails.{label}"] = power.missing["watts"]
        else:
            rails[label] = power.values

    def _zones(self, reading: Reading) -> None:
        zones = Reading()
        for zone in sorted((self._root / "sys/class/thermal").glob("thermal_zone*")):
            zones.number(text_of(zone / "type") or zone.name, zone / "temp", 1000.0)
        zones.missing |= {name: "switched off" for name, value in zones.values.items() if value <= OFF_C}
        reading.values["temperatures_c"] = {name: value for name, value in zones.values.items() if value > OFF_C}
        reading.missing |= {f"temperatures_c.{name}": why for name, why in zones.missing.items()}


def _ina3221(chip: Path, reading: Reading) -> dict[str, dict[str, float]]:
    rails = {}
    for label_file in sorted(chip.glob("in*_label")):
        number = int(label_file.name.removeprefix("in").removesuffix("_label"))
        label = text_of(label_file)
        if label == "NC" or number == SUM_CHANNEL:
            continue
        rail = Reading()
        rail.number("volts", chip / f"in{number}_input", 1000.0)
        rail.number("amperes", chip / f"curr{number}_input", 1000.0)
        if rail.missing:
            reading.missing[f"rails.{label}"] = "; ".join(rail.missing.values())
        else:
            rails[label] = {**rail.values, "watts": round(rail.values["volts"] * rail.values["amperes"], 3)}
    return rails


class _JetsonStats:
    """Fans and power mode. jetson-stats waits without a limit, so it runs aside, once at a time, and a late answer is dropped."""

    def __init__(self) -> None:
        self._worker: threading.Thread | None = None

    def collect(self, reading: Reading) -> None:
        """Ask, unless the last question is still open."""
        if self._worker is not None and self._worker.is_alive():
            reading.missing["jtop"] = "still waiting for an earlier answer of jetson-stats; restart its service (jtop.service)"
            return
        answer: list[dict[str, Any] | Exception] = []
        self._worker = threading.Thread(target=lambda: answer.append(_attempt(_jtop_stats)), name="jtop", daemon=True)
        self._worker.start()
        self._worker.join(JTOP_TIMEOUT_S)
        if not answer:
            reading.missing["jtop"] = f"jetson-stats gave no answer within {JTOP_TIMEOUT_S:g} s"
        elif isinstance(answer[0], Exception):
            reading.missing["jtop"] = f"jetson-stats: {reason(answer[0])}"
        else:
            reading.values |= answer[0]


def _attempt(call: Callable[[], dict[str, Any]]) -> dict[str, Any] | Exception:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - a library that we do not ship; what it raises becomes the reason
        return error


def _jtop_stats() -> dict[str, Any]:
    from jtop import jtop

    with jtop() as session:
        session.ok()
        stats = session.stats
    fans = {name.removeprefix("Fan "): float(value) for name, value in stats.items() if name.startswith("Fan ")}
    return {"power_mode": stats.get("nvp model"), "fans_percent": fans}
