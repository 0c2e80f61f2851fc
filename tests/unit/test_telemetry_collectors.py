"""Collectors give what the host says, and a reason for what it does not say."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.raspberry_pi import THROTTLED
from agent.uplink.telemetry import jetson as jetson_module
from agent.uplink.telemetry.jetson import JetsonCollector
from agent.uplink.telemetry.system import SystemCollector
from agent.uplink.telemetry.throttling import Throttling

pytestmark = pytest.mark.unit


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


ORIN = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0\n",
    "sys/class/devfreq/15340000.vic/device/of_node/name": "vic\0",
    "sys/class/devfreq/15340000.vic/device/load": "999\n",
    "sys/class/devfreq/17000000.gpu/device/of_node/name": "gpu\0",
    "sys/class/devfreq/17000000.gpu/device/load": "437\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "918000000\n",
    "sys/class/hwmon/hwmon0/name": "nvme\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1200\n",
    "sys/class/hwmon/hwmon1/in2_label": "NC\n",
    "sys/class/hwmon/hwmon1/in3_label": "VDD_SOC\n",
    "sys/class/hwmon/hwmon1/in3_input": "4960\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon1/in7_input": "1\n",
    "sys/class/hwmon/hwmon1/curr7_input": "1\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48250\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "-256000\n",
    "sys/class/thermal/thermal_zone2/type": "tj-thermal\n",
    "sys/class/thermal/thermal_zone2/temp": "hot\n",
}


def test_reads_an_orin(tmp_path: Path) -> None:
    _write(tmp_path, ORIN)
    jetson = JetsonCollector(tmp_path)
    assert jetson.present
    reading = jetson.collect()
    assert reading.values == {
        "gpu_percent": 43.7,
        "gpu_hz": 918e6,
        "rails": {"VDD_IN": {"volts": 5.0, "amperes": 1.2, "watts": 6.0}},
        "temperatures_c": {"cpu-thermal": 48.25},
    }
    assert reading.missing.keys() == {"rails.VDD_SOC", "temperatures_c.gpu-thermal", "temperatures_c.tj-thermal"}
    assert reading.missing["temperatures_c.gpu-thermal"] == "switched off"
    assert reading.missing["rails.VDD_SOC"] == "No such file or directory"


def test_reads_the_power_of_a_thor(tmp_path: Path) -> None:
    _write(tmp_path, {"sys/class/hwmon/hwmon3/name": "ina238\n", "sys/class/hwmon/hwmon3/power1_input": "31500000\n"})
    assert JetsonCollector(tmp_path).collect().values["rails"] == {"hwmon3": {"watts": 31.5}}


def test_a_bare_tree_is_no_jetson_and_says_what_is_missing(tmp_path: Path) -> None:
    jetson = JetsonCollector(tmp_path)
    assert not jetson.present
    assert jetson.collect().missing.keys() == {"gpu_percent", "rails"}


class _Jtop:
    stats: dict[str, Any] = {"Fan pwmfan0": 42.0, "nvp model": "MAXN", "GPU": 3}

    def __enter__(self) -> _Jtop:
        return self

    def __exit__(self, *_: object) -> None: ...

    def ok(self) -> bool:
        return True


def test_jetson_stats_adds_fans_and_power_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, {"run/jtop.sock": ""})
    monkeypatch.setitem(sys.modules, "jtop", types.SimpleNamespace(jtop=_Jtop))
    values = JetsonCollector(tmp_path).collect().values
    assert (values["power_mode"], values["fans_percent"]) == ("MAXN", {"pwmfan0": 42.0})


def test_a_service_without_its_library_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, {"run/jtop.sock": ""})
    monkeypatch.setitem(sys.modules, "jtop", None)
    assert "jetson-stats" in JetsonCollector(tmp_path).collect().missing["jtop"]


def test_a_service_that_hangs_costs_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Hanging(_Jtop):
        def ok(self) -> bool:
            return released.wait(30)

    _write(tmp_path, {"run/jtop.sock": ""})
    monkeypatch.setitem(sys.modules, "jtop", types.SimpleNamespace(jtop=Hanging))
    monkeypatch.setattr(jetson_module, "JTOP_TIMEOUT_S", 0.01)
    jetson = JetsonCollector(tmp_path)
    assert "no answer" in jetson.collect().missing["jtop"]
    assert "still waiting" in jetson.collect().missing["jtop"]
    workers = [thread for thread in threading.enumerate() if thread.name == "jtop"]
    assert len(workers) == 1
    released.set()
    workers[0].join()
    monkeypatch.setattr(jetson_module, "JTOP_TIMEOUT_S", 5.0)
    assert jetson.collect().values["power_mode"] == "MAXN"


def test_reads_this_host(tmp_path: Path) -> None:
    system = SystemCollector(tmp_path)
    first, second = system.collect(os.getpid()), system.collect(os.getpid())
    assert first.missing["cpu_percent"]
    assert "cpu_percent" not in first.values
    assert 0 <= second.values["cpu_percent"] <= 100
    assert len(second.values["load"]) == 3
    assert second.values["memory"]["total_bytes"] == psutil.virtual_memory().total
    assert 0 < second.values["disk"]["free_bytes"] <= second.values["disk"]["total_bytes"]
    assert second.values["uptime_s"] > 0
    assert second.values["processes"]["vision"]["pid"] == second.values["processes"]["uplink"]["pid"] == os.getpid()
    assert second.values["processes"]["vision"]["rss_bytes"] > 10e6
    for name in ("temperatures_c", "network"):
        assert (name in second.values) != (name in second.missing)


def test_what_is_not_there_is_a_reason(tmp_path: Path) -> None:
    system = SystemCollector(tmp_path / "nowhere")
    reading = system.collect(None)
    assert "vision" not in reading.values["processes"]
    assert reading.missing["processes.vision"] == "the vision process does not answer"
    assert "nowhere" in reading.missing["disk"]


def test_a_vision_process_that_has_gone_is_a_reason(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert str(process.pid) in SystemCollector(tmp_path).collect(process.pid).missing["processes.vision"]


def test_a_processor_that_is_slowed_down(tmp_path: Path) -> None:
    throttling = Throttling(tmp_path)
    assert SystemCollector(tmp_path, throttling).collect(None).missing["throttled"].startswith("this host does not say")
    _write(tmp_path, {THROTTLED: "50000\n"})  # it was, since the boot, and is not now
    assert SystemCollector(tmp_path, throttling).collect(None).values["throttled"] == ""
    _write(tmp_path, {THROTTLED: "50005\n"})
    assert throttling.read() == "too little voltage, throttled"
    core = "sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count"
    _write(tmp_path, {THROTTLED: "0\n", core.format(0): "7\n", core.format(1): "1\n"})
    assert throttling.read() == ""
    _write(tmp_path, {core.format(0): "9\n"})
    assert throttling.read() == "heat slowed it down 2 times since the last sample"
    assert throttling.read() == ""
