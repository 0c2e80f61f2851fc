"""Energy of what a device does, from its own sensors; where it has none that may be read, that is said and nothing is estimated.

Sources: INA3221 and INA238 on NVIDIA Jetson (sysfs hwmon), RAPL (sysfs powercap, Documentation/power/powercap/powercap.rst of the Linux
kernel), NVML, and jetson-stats where nothing else can be read.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Protocol

from engines.files import text_of

PERIOD_S = 0.1
IDLE_S = 2.0
JOULES_PER_KWH = 3.6e6
WHOLE_MODULE = ("VDD_IN", "VIN", "POM_5V_IN")
"""Rails that feed all others."""
SUM_CHANNEL = 7


class Sensor(Protocol):
    """Something that can be asked for the energy used so far."""

    name: str

    def joules(self) -> float:
        """Since any fixed moment. Raises OSError where it cannot be read any more."""
        ...


@dataclass(frozen=True, slots=True)
class Energy:
    """Of one run: what the sensors counted, and the same without what the device uses when idle."""

    source: str
    seconds: float
    joules: float
    idle_watts: float

    @property
    def net_joules(self) -> float:
        """Without idle power; never below 0."""
        return max(0.0, self.joules - self.idle_watts * self.seconds)

    def per_inference(self, count: int) -> dict[str, float]:
        """Joules for each of `count` inferences, with and without idle power."""
        return {"joules_per_inference": self.joules / count, "net_joules_per_inference": self.net_joules / count}


def cost(joules_per_inference: float, tariff: float, count: int = 1_000_000) -> dict[str, float]:
    """Kilowatt-hours of `count` inferences, and what they cost at `tariff` a kWh."""
    kwh = joules_per_inference * count / JOULES_PER_KWH
    return {"inferences": count, "kwh": kwh, "cost": kwh * tariff}


class Counter:
    """RAPL domains: microjoules that wrap around at `max_energy_range_uj`. To be asked more often than once a round."""

    def __init__(self, domains: Sequence[Path]) -> None:
        self.name = "RAPL " + " + ".join(text_of(domain / "name") for domain in domains)
        self._domains = [(domain / "energy_uj", int(text_of(domain / "max_energy_range_uj"))) for domain in domains]
        self._last = [int(file.read_text()) for file, _ in self._domains]
        self._total = 0

    def joules(self) -> float:
        """Of all domains since the start."""
        for index, (file, span) in enumerate(self._domains):
            now = int(file.read_text())
            self._total += now - self._last[index] if now >= self._last[index] else now + span - self._last[index]
            self._last[index] = now
        return self._total / 1e6


class Integral:
    """Energy of something that tells watts: the trapezoids between the moments of asking."""

    def __init__(self, name: str, watts: Any) -> None:
        self.name = name
        self._watts = watts
        self._at, self._last, self._total = monotonic(), float(watts()), 0.0

    def joules(self) -> float:
        """Since the start."""
        now, watts = monotonic(), float(self._watts())
        self._total += (now - self._at) * (watts + self._last) / 2
        self._at, self._last = now, watts
        return self._total


@dataclass(slots=True)
class PowerMeter:
    """The sensors of this device that together cover what an inference uses. `missing`: why there are none, if so."""

    sensors: list[Sensor] = field(default_factory=list)
    missing: str = ""
    idle_watts: float | None = None

    @property
    def source(self) -> str:
        """The sensors by name."""
        return ", ".join(sensor.name for sensor in self.sensors)

    def rest(self, seconds: float = IDLE_S) -> None:
        """Measure the device at rest: for all runs to come."""
        if self.sensors:
            with self.run(0.0) as found:
                sleep(seconds)
            self.idle_watts = found[0].joules / found[0].seconds

    @contextmanager
    def run(self, idle_watts: float | None = None) -> Iterator[list[Energy]]:
        """What happens inside is measured; at its end the list holds the Energy, or stays empty where there are no sensors."""
        found: list[Energy] = []
        if not self.sensors:
            yield found
            return
        if idle_watts is None:
            if self.idle_watts is None:
                self.rest()
            idle_watts = self.idle_watts or 0.0
        before, started, done = self._joules(), monotonic(), threading.Event()
        asking = threading.Thread(target=self._keep_asking, args=(done,), name="power", daemon=True)
        asking.start()
        try:
            yield found
        finally:
            done.set()
            asking.join()
        found.append(Energy(self.source, monotonic() - started, self._joules() - before, idle_watts))

    def _joules(self) -> float:
        return sum(sensor.joules() for sensor in self.sensors)

    def _keep_asking(self, done: threading.Event) -> None:
        """A sensor that fails is met again, and then told, at the end of the run."""
        with suppress(OSError):
            while not done.wait(PERIOD_S):
                self._joules()


def power_meter(root: Path = Path("/"), nvml: bool = True) -> PowerMeter:
    """The best way to measure here: rails of the whole module; else processor and NVIDIA GPUs together; else jetson-stats.

    `root` stands for `/`.
    """
    reasons: list[str] = []
    if rails := _try(lambda: _rails(root), reasons):
        return PowerMeter([rails])
    sensors = [_try(lambda: _rapl(root), reasons), *([_try(_nvml, reasons)] if nvml else [])]
    found: list[Sensor] = [sensor for sensor in sensors if sensor is not None]
    if not found and (root / "run/jtop.sock").exists() and (stats := _try(_jetson_stats, reasons)):
        found = [stats]
    return PowerMeter(found, "" if found else "; ".join(reasons))


def temperature(root: Path = Path("/")) -> float | None:
    """The hottest thermal zone in degrees Celsius; None where there is none that may be read."""
    found = []
    for zone in root.glob("sys/class/thermal/thermal_zone*/temp"):
        try:
            found.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return max((value for value in found if value > -100), default=None)


class _NotHereError(Exception):
    """A source cannot be used; the message says why."""


def _try(find: Any, reasons: list[str]) -> Any:
    try:
        return find()
    except _NotHereError as error:
        reasons.append(str(error))
    except (OSError, ValueError) as error:
        reasons.append(f"{getattr(error, 'filename', None) or 'a sensor'} cannot be read: {getattr(error, 'strerror', None) or error}")
    return None


def _rails(root: Path) -> Sensor:
    """INA3221: in mV, curr mA; INA238: power1_input in µW."""
    rails: dict[str, list[tuple[Path, ...]]] = {}
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        kind = text_of(chip / "name")
        if kind == "ina238" and (chip / "power1_input").exists():
            rails.setdefault(text_of(chip / "device/label") or text_of(chip / "label") or chip.name, []).append((chip / "power1_input",))
        for label in sorted(chip.glob("in*_label")) if kind == "ina3221" else ():
            number = label.name.removeprefix("in").removesuffix("_label")
            if text_of(label) != "NC" and int(number) != SUM_CHANNEL:
                rails.setdefault(text_of(label), []).append((chip / f"in{number}_input", chip / f"curr{number}_input"))
    if not rails:
        raise _NotHereError("no INA3221 or INA238 below /sys/class/hwmon")
    whole = [name for name in WHOLE_MODULE if name in rails]
    chosen = whole[:1] or sorted(rails)
    files = [group for name in chosen for group in rails[name]]
    kind = "of the whole module" if whole else "of all rails"
    return Integral(f"power {kind} ({' + '.join(chosen)})", lambda: sum(_watts(group) for group in files))


def _watts(files: tuple[Path, ...]) -> float:
    values = [int(file.read_text()) for file in files]
    return values[0] / 1e6 if len(values) == 1 else values[0] * values[1] / 1e6


def _rapl(root: Path) -> Sensor:
    """Packages, and the memory where it is a domain of its own below a package."""
    zones = [zone for zone in root.glob("sys/class/powercap/intel-rapl:*") if (zone / "energy_uj").exists()]
    chosen = sorted(zone for zone in zones if text_of(zone / "name").startswith(("package", "dram")))
    if not chosen:
        raise _NotHereError("no RAPL below /sys/class/powercap")
    try:
        return Counter(chosen)
    except PermissionError as error:
        raise _NotHereError(f"RAPL may be read by root only ({error.filename}); run as root, or grant reading to the user") from error


def _nvml() -> Sensor:
    if find_spec("pynvml") is None:
        raise _NotHereError("no NVML (pip install 'almena[nvidia]', on a machine with an NVIDIA GPU)")
    import pynvml

    try:
        pynvml.nvmlInit()
        devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return Integral("NVML", lambda: sum(pynvml.nvmlDeviceGetPowerUsage(device) for device in devices) / 1e3)
    except pynvml.NVMLError as error:
        raise _NotHereError(f"NVML: {error}") from error


def _jetson_stats() -> Sensor:
    if find_spec("jtop") is None:
        raise _NotHereError("jetson-stats is not installed")
    from jtop import jtop

    session = jtop()
    session.start()
    return Integral("jetson-stats", lambda: session.power["tot"]["power"] / 1e3)
