"""Energy: what the sensors count and nothing else."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from calibration import power
from calibration.power import Counter, Energy, Integral, PowerMeter, cost, power_meter, temperature

pytestmark = pytest.mark.unit


def put(root: Path, **files: str) -> None:
    """Files by path with dots for slashes in their names' place."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def rapl(root: Path, zone: str, name: str, energy: int, span: int = 1_000_000) -> Path:
    folder = root / "sys/class/powercap" / zone
    put(folder, name=name, energy_uj=str(energy), max_energy_range_uj=str(span))
    return folder / "energy_uj"


class Time:
    """Goes on when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(power, "monotonic", made)
    return made


def test_rapl_counts_packages_and_their_memory_but_nothing_twice(tmp_path: Path) -> None:
    package = rapl(tmp_path, "intel-rapl:0", "package-0", 10)
    rapl(tmp_path, "intel-rapl:0:0", "core", 10)
    memory = rapl(tmp_path, "intel-rapl:0:1", "dram", 10)
    rapl(tmp_path, "intel-rapl:1", "psys", 10)
    meter = power_meter(tmp_path, nvml=False)
    assert meter.source == "RAPL package-0 + dram"
    before = meter.sensors[0].joules()
    package.write_text("500010")
    memory.write_text("250010")
    assert meter.sensors[0].joules() - before == pytest.approx(0.75)


def test_rapl_wraps_around(tmp_path: Path) -> None:
    file = rapl(tmp_path, "intel-rapl:0", "package-0", 900_000)
    counter = Counter([file.parent])
    for energy, total in ((950_000, 0.05), (10_000, 0.11), (5_000, 1.105)):
        file.write_text(str(energy))
        assert counter.joules() == pytest.approx(total)


def test_rapl_for_root_only_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read anything, and tests may run as root, so the kernel's refusal is played."""
    file = rapl(tmp_path, "intel-rapl:0", "package-0", 1)
    read = Path.read_text

    def refused(path: Path, *args: Any, **options: Any) -> str:
        if path == file:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path, *args, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    meter = power_meter(tmp_path, nvml=False)
    assert not meter.sensors
    assert f"RAPL may be read by root only ({file})" in meter.missing
    assert "no INA3221 or INA238" in meter.missing


def test_the_rail_of_the_whole_module_stands_for_all(tmp_path: Path, clock: Time) -> None:
    chip = tmp_path / "sys/class/hwmon/hwmon1"
    put(
        chip,
        name="ina3221",
        in1_label="VDD_IN",
        in1_input="5000",
        curr1_input="2000",
        in2_label="VDD_CPU",
        in2_input="5000",
        curr2_input="800",
    )
    put(chip, in3_label="NC", in7_label="sum of shunt voltages")
    meter = power_meter(tmp_path, nvml=False)
    assert meter.source == "power of the whole module (VDD_IN)"
    clock.now += 2
    assert meter.sensors[0].joules() == pytest.approx(20)


def test_without_such_a_rail_all_are_summed(tmp_path: Path, clock: Time) -> None:
    chip = tmp_path / "sys/class/hwmon/hwmon1"
    put(chip, name="ina3221", in1_label="GPU", in1_input="5000", curr1_input="1000", in2_label="CPU", in2_input="5000", curr2_input="800")
    put(tmp_path / "sys/class/hwmon/hwmon2", name="ina238", label="SYS", power1_input="1500000")
    meter = power_meter(tmp_path, nvml=False)
    assert meter.source == "power of all rails (CPU + GPU + SYS)"
    clock.now += 1
    assert meter.sensors[0].joules() == pytest.approx(5 + 4 + 1.5)


def test_a_sensor_that_tells_nonsense_is_none(tmp_path: Path) -> None:
    put(tmp_path / "sys/class/hwmon/hwmon1", name="ina238", label="VIN", power1_input="none")
    meter = power_meter(tmp_path, nvml=False)
    assert not meter.sensors
    assert "cannot be read" in meter.missing


def test_watts_are_integrated_by_trapezoids(clock: Time) -> None:
    watts = iter((10.0, 20.0, 0.0))
    integral = Integral("watts", lambda: next(watts))
    clock.now += 1
    assert integral.joules() == pytest.approx(15)
    clock.now += 2
    assert integral.joules() == pytest.approx(35)


class Counted:
    """So many joules at each asking."""

    name = "counted"

    def __init__(self, step: float) -> None:
        self.step, self.total, self.broken = step, 0.0, False

    def joules(self) -> float:
        if self.broken:
            raise OSError("unplugged")
        self.total += self.step
        return self.total


def test_a_run_is_what_was_used_between_its_ends() -> None:
    sensor = Counted(0.0)
    meter = PowerMeter([sensor], idle_watts=0.0)
    with meter.run() as found:
        sensor.total += 7
    assert found[0].joules == pytest.approx(7)
    assert found[0].source == "counted"


def test_a_sensor_that_fails_under_way_is_told() -> None:
    sensor = Counted(0.0)

    def work() -> None:
        with PowerMeter([sensor], idle_watts=0.0).run():
            sensor.broken = True

    with pytest.raises(OSError, match="unplugged"):
        work()


def test_without_sensors_nothing_is_invented(tmp_path: Path) -> None:
    meter = power_meter(tmp_path, nvml=False)
    with meter.run() as found:
        pass
    assert found == []
    assert meter.source == ""
    assert "no RAPL" in meter.missing


def test_idle_power_is_taken_off_and_never_gives_less_than_nothing() -> None:
    assert Energy("s", 2.0, 30.0, 5.0).net_joules == pytest.approx(20)
    assert Energy("s", 2.0, 30.0, 50.0).net_joules == 0
    assert Energy("s", 2.0, 30.0, 5.0).per_inference(10) == {"joules_per_inference": 3.0, "net_joules_per_inference": 2.0}


def test_idle_power_is_measured_before_the_first_run(clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor = Counted(0.0)

    def rest(seconds: float) -> None:
        clock.now += seconds
        sensor.total += 4 * seconds

    monkeypatch.setattr(power, "sleep", rest)
    with PowerMeter([sensor]).run() as found:
        clock.now += 10
        sensor.total += 100
    assert found[0].idle_watts == pytest.approx(4)
    assert found[0].net_joules == pytest.approx(60)


def test_a_million_inferences_cost() -> None:
    assert cost(3.6, 0.30) == {"inferences": 1_000_000, "kwh": 1.0, "cost": pytest.approx(0.30)}


def test_the_hottest_zone(tmp_path: Path) -> None:
    assert temperature(tmp_path) is None
    put(tmp_path / "sys/class/thermal/thermal_zone0", temp="41500")
    put(tmp_path / "sys/class/thermal/thermal_zone1", temp="-256000")
    put(tmp_path / "sys/class/thermal/thermal_zone2", temp="offline")
    assert temperature(tmp_path) == 41.5
