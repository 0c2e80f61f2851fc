"""`almena doctor` on made trees, real libraries and a real broker."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from agent.checkup import broker, host, libraries, runtimes, service
from agent.settings import MqttSettings, Settings, WebSettings
from engines.registry import BACKENDS
from tests.fakes.ports import free_port
from tests.fakes.small_site import SmallSite
from tests.waiting import wait_until

ORIN_INFO = "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nFeatures\t: fp asimd asimddp crc32\n"


BLIND = """
class Backend:
    def version(self):
        return "1"
    def units(self):
        return ()
    def missing(self):
        return {"gpu": "no driver"}
"""


def _doctor(folder: Path, *arguments: str, stdin: str = "") -> tuple[int, str]:
    command = [sys.executable, "-m", "agent.cli", "doctor", *arguments]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run(command, cwd=folder, env=env, input=stdin, capture_output=True, text=True, timeout=150, check=False)
    assert not result.stderr or result.returncode == 2, result.stderr
    return result.returncode, result.stdout


def _checks(text: str) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(text)["checks"]}


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_machines(tmp_path: Path) -> None:
    orin = {"proc/device-tree/model": "NVIDIA Jetson Orin NX\0", "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 3\n"}
    assert host.machine(_tree(tmp_path / "orin", orin)).text == "NVIDIA Jetson Orin NX, L4T 36.4.3"
    old = host.machine(_tree(tmp_path / "xavier", {"etc/nv_tegra_release": "# R35 (release), REVISION: 4.1\n"}))
    assert (old.state, "35.4.1" in old.text, "JetPack 6" in old.advice) == ("warn", True, True)
    assert "Raspberry Pi 5" in host.machine(_tree(tmp_path / "pi", {"proc/device-tree/model": "Raspberry Pi 5 Model B\0"})).text
    assert host.processor(_tree(tmp_path / "arm", {"proc/cpuinfo": ORIN_INFO})).text.endswith("; asimddp")


def test_sensors_of_energy(tmp_path: Path) -> None:
    assert host.energy(tmp_path).text.startswith("not available: no INA3221")
    domain = "sys/class/powercap/intel-rapl:0/"
    root = _tree(tmp_path, {f"{domain}name": "package-0", f"{domain}energy_uj": "5", f"{domain}max_energy_range_uj": "100"})
    assert host.energy(root).text == "RAPL package-0"


def test_cameras_and_their_stable_names(tmp_path: Path) -> None:
    assert host.cameras(tmp_path).text == "no local camera"
    root = _tree(tmp_path, {"dev/video10": "", "dev/video2": "", "dev/video0": "", "dev/v4l/by-id/usb-Cam-index0": ""})
    found = host.cameras(root)
    assert found.state == "ok"
    assert found.text.startswith(", ".join(f"{root}/dev/video{number}" for number in (0, 2, 10)))
    assert "usb-Cam-index0" in found.text


def test_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    assert host.disk(tmp_path / "a/b/c").state == "ok"
    assert host.disk(Path("/proc/almena")).state == "fail"


def test_packages_that_overwrite_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opencv_python", "onnxruntime_gpu"):
        _tree(tmp_path, {f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n"})
    assert libraries.opencv().state == runtimes.runtime("onnxruntime").state == "ok"
    monkeypatch.syspath_prepend(str(tmp_path))
    assert libraries.opencv().text == "installed together: opencv-python, opencv-python-headless"
    assert "onnxruntime-gpu" in runtimes.runtime("onnxruntime").text
    assert libraries.opencv().state == runtimes.runtime("onnxruntime").state == "fail"


def test_libraries_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cv2", "onnxruntime", "openvino", "ai_edge_litert", "tensorflow"):
        monkeypatch.setitem(sys.modules, name, None)
    assert {check.name: check.state for check in libraries.library_checks()} == {"opencv": "fail", "other libraries": "ok"}
    found = {check.name: check for check in runtimes.runtime_checks()}
    assert {name: check.state for name, check in found.items()} == dict.fromkeys(BACKENDS, "ok") | {"openvino": "warn", "inference": "fail"}
    assert all(check.text == "not installed" for name, check in found.items() if name != "inference")


def test_each_runtime_tells_its_units_and_precisions() -> None:
    found = {check.name: check for check in runtimes.runtime_checks()}
    assert re.fullmatch(r"[\d.]+: cpu \(.*\) in int8, fp32; no tensorrt: .*; no cuda: .*", found["onnxruntime"].text)
    assert re.match(r"20[\d.]+: cpu \(.*\) in .*fp32", found["openvino"].text)
    assert found["tensorrt"].text == "not installed"
    assert found["inference"].text.startswith("usable: openvino, onnxruntime")


def test_a_runtime_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    (tmp_path / "blind.py").write_text(BLIND)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(runtimes, "BACKENDS", {"half": "half:Backend", "blind": "blind:Backend"})
    monkeypatch.setattr(runtimes, "MODULES", {"half": "half", "blind": "blind"})
    half, blind, none = runtimes.runtime_checks()
    assert (half.state, "libnvinfer.so.10" in half.text) == ("warn", True)
    assert (blind.state, blind.text) == ("warn", "1: nothing to run on; no gpu: no driver")
    assert none.state == "fail"


def test_gstreamer_is_what_runs_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = libraries.gstreamer(wanted=True)
    assert found.state == "ok"
    assert re.match(r"1\.\d+\.\d+; for CSI cameras: (neither )?(nvargus|lib)camerasrc", found.text)
    monkeypatch.setattr(libraries, "GSTREAMER_ELEMENTS", ("videoconvert", "nosuchelement"))
    assert (libraries.gstreamer(wanted=True).state, "nosuchelement" in libraries.gstreamer(wanted=True).text) == ("fail", True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [libraries.gstreamer(wanted).state for wanted in (True, False)] == ["fail", "ok"]
    (tmp_path / "almena.yaml").write_text("streams: [{name: line, source: {type: gstreamer, csi: {}}, tasks: []}]")
    settings, _ = service.read_settings(tmp_path / "almena.yaml")
    assert settings is not None
    checks = {check.name: check for check in service.service_checks(settings)}
    assert "gstreamer1.0-tools" in checks["gstreamer"].advice


def test_models_are_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path)
    assert service.models(settings) == []
    path = tmp_path / "models" / service.card("centerface").filename
    _tree(path.parent, {path.name: "not a model"})
    (bad,) = service.models(settings)
    assert (bad.state, hashlib.sha256(b"not a model").hexdigest() in bad.text) == ("fail", True)
    right = service.card("centerface").model_copy(update={"sha256": hashlib.sha256(b"not a model").hexdigest()})
    monkeypatch.setattr(service, "card", lambda _name: right)
    monkeypatch.setattr(service, "names", lambda: ["centerface"])
    assert service.models(settings)[0].state == "ok"


@contextmanager
def _mosquitto(folder: Path, lines: str) -> Iterator[int]:
    port = free_port()
    config = _tree(folder, {"mosquitto.conf": f"listener {port} 127.0.0.1\nuser root\n{lines}"}) / "mosquitto.conf"
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with (folder / "broker.log").open("wb") as log, subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: _open(port), 10, "mosquitto")
            yield port
        finally:
            process.terminate()


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_broker_that_accepts_and_one_that_does_not(tmp_path: Path) -> None:
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(tmp_path / "users"), "cam", "right"], check=True, capture_output=True)
    with _mosquitto(tmp_path, f"allow_anonymous false\npassword_file {tmp_path / 'users'}\n") as port:
        for version, spoken in (("auto", "5"), ("5", "5"), ("3.1.1", "3.1.1")):
            right = MqttSettings(port=port, username="cam", password="right", version=version)  # type: ignore[arg-type]
            assert broker.broker(right, "d").text == f"127.0.0.1:{port} accepts this device with MQTT {spoken}"
            wrong = broker.broker(right.model_copy(update={"username": "nobody"}), "d")
            assert (wrong.state, "refused" in wrong.text, "mqtt.username" in wrong.advice) == ("fail", True, True)
            assert "right" not in wrong.text + wrong.advice
    gone = broker.broker(MqttSettings(port=port), "d")
    assert (gone.state, "nothing listens" in gone.text) == ("fail", True)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        assert "does not answer" in broker.broker(MqttSettings(port=silent.getsockname()[1], version="5"), "d").text
        assert broker.broker(MqttSettings(port=port, embedded_broker=True), "d").state == "ok"
    assert broker.broker(None, "d").state == "ok"


def test_the_port_of_the_page(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        settings = Settings(state_dir=tmp_path, web=WebSettings(port=other.getsockname()[1]))
        assert service.web(settings).state == "fail"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.bind(str(settings.control_socket))
            agent.listen()
            assert "is running" in service.web(settings).text
    assert service.web(settings).text.endswith("is free")


def test_the_own_page_is_known_while_vision_is_down(tmp_path: Path) -> None:
    with SmallSite(tmp_path / "one") as site:
        site.stop_vision()
        page = WebSettings(port=int(site.server.url.rsplit(":", 1)[1].strip("/")))
        own, other = (service.web(Settings(state_dir=tmp_path / folder, web=page)) for folder in ("one", "two"))
    assert ("is running" in own.text, own.state, other.state) == (True, "ok", "fail")


def test_the_whole_command(tmp_path: Path) -> None:
    code, text = _doctor(tmp_path, "--json")
    checks = _checks(text)
    assert code == (0 if all(check["state"] != "fail" for check in checks.values()) else 1)
    assert {"platform", "python", "processor", "memory", "disk", "clock", "cameras", "opencv", "gstreamer", *BACKENDS} <= checks.keys()
    assert "FFMPEG yes" in checks["opencv"]["text"]
    assert "int8, fp32" in checks["onnxruntime"]["text"]
    assert ": cpu (" in checks["openvino"]["text"]
    assert list(tmp_path.iterdir()) == []


def test_wrong_settings_fail_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "almena.yaml").write_text("device:\n  nmae: x\n")
    code, text = _doctor(tmp_path)
    assert code == 1
    assert "FAIL  settings" in text
    assert "almena.yaml:2: device.nmae: unknown key" in text
    assert "almena.example.yaml" in text


def test_hashes_a_password_from_standard_input(tmp_path: Path) -> None:
    code, text = _doctor(tmp_path, "--hash-password", stdin="hunter2\n")
    assert code == 0
    assert PasswordHasher().verify(text.strip(), "hunter2")
    assert _doctor(tmp_path, "--hash-password", stdin="\n")[0] == 2
