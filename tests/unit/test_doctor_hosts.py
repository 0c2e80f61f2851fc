"""What `almena doctor` says of boards, services and certificates, on made trees."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

import pytest

from agent.checkup import board, certificates, installed
from agent.raspberry_pi import THROTTLED
from agent.settings import MqttSettings, Settings
from agent.tls_settings import TlsSettings
from provisioning.ca import Authority as FleetCa
from provisioning.host.places import own_texts
from tests.fakes.certificates import Authority

pytestmark = pytest.mark.unit

CPU = "sys/devices/system/cpu/cpu0"
NVPMODEL = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=10W >\n< PM_CONFIG DEFAULT=1 >\n"


def _tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _tree(tmp_path, **{"etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\n'})
    assert board.system(root).text == "Ubuntu 24.04.3 LTS"
    releases = {
        "R36 (release), REVISION: 4.7": "6.1 to 6.2.1",
        "R38 (release), REVISION: 4.0": "7.1",
        "R40 (release), REVISION: 1.0": "of L4T 40.1",
    }
    for release, jetpack in releases.items():
        _tree(root, **{"etc/nv_tegra_release": f"# {release}, GCID: 1\n"})
        assert board.system(root).text == f"Ubuntu 24.04.3 LTS, JetPack {jetpack}"
    monkeypatch.setattr(board.platform, "architecture", lambda: ("32bit", "ELF"))
    assert (board.system(root).state, "64-bit image" in board.system(root).advice) == ("fail", True)


def test_power_modes(tmp_path: Path) -> None:
    assert board.power_mode(tmp_path).text == "not told by this kernel"
    slow = _tree(tmp_path / "slow", **{f"{CPU}/cpufreq/scaling_governor": "powersave\n", f"{CPU}/cpufreq/scaling_driver": "cpufreq-dt\n"})
    assert (board.power_mode(slow).state, "schedutil" in board.power_mode(slow).advice) == ("warn", True)
    intel = _tree(
        tmp_path / "intel", **{f"{CPU}/cpufreq/scaling_governor": "powersave\n", f"{CPU}/cpufreq/scaling_driver": "intel_pstate\n"}
    )
    assert board.power_mode(intel).state == "ok", "of this driver the name says nothing about the frequency"
    orin = _tree(tmp_path / "orin", **{"etc/nv_tegra_release": "# R36", "etc/nvpmodel.conf": NVPMODEL})
    assert (board.power_mode(orin).state, "nvpmodel -q" in board.power_mode(orin).advice) == ("warn", True)
    _tree(orin, **{"var/lib/nvpmodel/status": "pmode:0001 fmode:quiet\n"})
    assert board.power_mode(orin).text == "1 10W; others: 0 MAXN"


@pytest.mark.parametrize(
    ("word", "state", "text"),
    [
        ("0", "ok", "none since the start"),
        ("50000", "warn", "since the start: too little voltage, throttled"),
        ("0x50005", "fail", "now: too little voltage, throttled"),
        ("80008", "fail", "now: soft temperature limit"),
    ],
)
def test_a_raspberry_pi_that_is_throttled(tmp_path: Path, word: str, state: str, text: str) -> None:
    root = _tree(tmp_path, **{"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0", THROTTLED: f"{word}\n"})
    found = board.throttling(root)
    assert (found.state, found.text) == (state, text)


def test_a_processor_that_got_too_hot(tmp_path: Path) -> None:
    assert board.throttling(tmp_path).text == "none now"
    root = _tree(tmp_path, **{f"{CPU}/thermal_throttle/package_throttle_count": "0\n"})
    assert (board.throttling(root).state, board.throttling(root).text) == ("ok", "none since the start")
    _tree(root, **{f"{CPU}/thermal_throttle/package_throttle_count": "12\n"})
    _tree(root, **{"sys/class/thermal/cooling_device0/type": "cpufreq-cpu0\n", "sys/class/thermal/cooling_device0/cur_state": "3\n"})
    _tree(root, **{"sys/class/thermal/cooling_device1/type": "pwm-fan\n", "sys/class/thermal/cooling_device1/cur_state": "3\n"})
    found = board.throttling(root)
    assert (found.state, found.text) == ("warn", "12 times since the start, cpufreq-cpu0 is held back now")


def test_accelerators_without_what_belongs_to_them(tmp_path: Path) -> None:
    assert board.accelerators(tmp_path).text == "none; models run on the processor"
    root = _tree(tmp_path, **{"sys/class/drm/renderD128/device/vendor": "0x8086\n", "dev/accel/accel0": ""})
    found = board.accelerators(root)
    assert (found.state, found.text) == (
        "warn",
        "Intel GPU (renderD128), NPU; Intel GPU (renderD128) without OpenCL, NPU without its library",
    )
    assert "intel-opencl-icd" in found.advice
    _tree(root, **{"etc/OpenCL/vendors/intel.icd": "x", "usr/lib/x86_64-linux-gnu/libze_intel_npu.so.1": ""})
    assert board.accelerators(root).state == "ok"


def test_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (only,) = installed.installed_checks(tmp_path)
    assert "sudo almena install" in only.text
    (tmp_path / "opt/almena").mkdir(parents=True)
    (tmp_path / "opt/almena/current").symlink_to("releases/1.0-abc")
    states = {"almena-uplink.service": "active", "almena-vision.service": "activating"}
    monkeypatch.setattr(installed, "_state", states.__getitem__)
    down = installed.service(tmp_path)
    assert (down.state, down.text) == ("fail", "release 1.0-abc; almena-vision.service is activating")
    states["almena-vision.service"] = "active"
    (tmp_path / "opt/almena/previous").symlink_to("releases/0.9-abc")
    assert installed.service(tmp_path).text == "release 1.0-abc, before it 0.9-abc; vision and uplink run"
    verdict = {"release": "1.1-abc", "before": "1.0-abc", "kept": False, "said": "…", "at": 1_800_000_000}
    _tree(tmp_path, **{"opt/almena/last-upgrade.json": json.dumps(verdict)})
    assert "the upgrade to 1.1-abc was given up on 2027-01-15" in installed.service(tmp_path).text
    for damaged in ("{", "[]", '{"kept": false}'):
        _tree(tmp_path, **{"opt/almena/last-upgrade.json": damaged})
        assert "what became of the last upgrade cannot be read" in installed.service(tmp_path).text
    _tree(tmp_path, **{"opt/almena/last-upgrade.json": json.dumps(verdict | {"kept": True})})
    assert installed.service(tmp_path).state == "ok"
    (tmp_path / "opt/almena/trial").touch()
    assert "goes back by itself" in installed.service(tmp_path).advice
    monkeypatch.setattr(installed, "kernel_synchronised", lambda: True)
    assert "docs/service.md" in installed.service_clock(tmp_path).advice
    _tree(tmp_path, **{installed.SYNCED_MARK: ""})
    assert installed.service_clock(tmp_path).state == "ok"


def test_the_service_of_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "opt/almena").mkdir(parents=True)
    (tmp_path / "opt/almena/current").symlink_to("releases/1.0-abc")
    _tree(tmp_path, **{"usr/lib/systemd/system/almena-hub.service": ""})
    states = {"almena-hub.service": "active", "almena-enrol.service": "failed"}
    monkeypatch.setattr(installed, "_state", states.__getitem__)
    assert installed.service(tmp_path).text == "release 1.0-abc; the hub runs; see `almena hub doctor`, too"
    _tree(tmp_path, **{"var/lib/almena/fleet/fleet.yaml": ""})
    assert installed.service(tmp_path).text == "release 1.0-abc; almena-enrol.service is failed"
    names = {check.name for check in installed.installed_checks(tmp_path)}
    assert names == {"service", "folders", "secrets", "credentials", "memory limits"}


def test_secrets_that_others_may_read(tmp_path: Path) -> None:
    root = _tree(tmp_path, **{"etc/almena/keys/gallery.key": "x", "etc/almena/uplink/ca.pem": "public"})
    (root / "etc/almena/keys/gallery.key").chmod(0o600)
    assert installed.secrets(root).text.startswith("1 files of root alone")
    _tree(root, **{"etc/almena/vision/camera.password": "x"})
    (root / "etc/almena/vision/camera.password").chmod(0o640)
    found = installed.secrets(root)
    assert (found.state, "chmod 600" in found.advice) == ("warn", True)
    (root / "etc/almena/vision/camera.password").chmod(0o600)
    _tree(root, **{"etc/almena/hub/hub.pem": "-----BEGIN PRIVATE KEY-----"})
    (root / "etc/almena/hub/hub.pem").chmod(0o644)
    assert "others may read" in installed.secrets(root).text, "a certificate with its key"


def test_folders_that_somebody_changed(tmp_path: Path) -> None:
    me = f"{pwd.getpwuid(os.getuid()).pw_name}   {grp.getgrgid(os.getgid()).gr_name}"
    lines = f"# Folders.\nd /var/lib/almena 2770 {me}\nd /var/lib/almena/gallery 0700 {me}\n"
    root = _tree(tmp_path, **{"usr/lib/tmpfiles.d/almena.conf": lines, "var/lib/almena/gallery/faces": ""})
    gallery = root / "var/lib/almena/gallery"
    gallery.parent.chmod(0o2770)
    gallery.chmod(0o700)
    assert installed.folders(root).text == "2 as the installation made them"
    gallery.chmod(0o755)
    found = installed.folders(root)
    assert (found.state, "gallery is 0755" in found.text, "systemd-tmpfiles" in found.advice) == ("fail", True, True)
    (gallery / "faces").unlink()
    gallery.rmdir()
    assert "/var/lib/almena/gallery is missing" in installed.folders(root).text


def test_files_that_an_older_systemd_has_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_in = "[Service]\nLoadCredential=\nLoadCredential=gallery.key:/etc/almena/keys/gallery.key\n"
    drop_in += "LoadCredential=uplink_broker.password:/etc/almena/uplink/broker.password\n"
    files = {"run/systemd/generator/almena-uplink.service.d/10-almena.conf": drop_in, "etc/almena/uplink/broker.password": "x"}
    root = _tree(tmp_path, **files)
    monkeypatch.setattr(installed, "_systemd_version", lambda: 249)
    assert installed.handed_over(root).text == "1 files, each by its name (systemd 249)"
    _tree(root, **{"etc/almena/vision/door.password": "x"})
    found = installed.handed_over(root)
    assert (found.state, found.text.endswith("/etc/almena/vision/door.password"), "daemon-reload" in found.advice) == ("fail", True, True)
    assert "rename" not in found.advice
    _tree(root, **{"etc/almena/vision/the door.password": "x"})
    assert "rename what has other characters" in installed.handed_over(root).advice
    monkeypatch.setattr(installed, "_systemd_version", lambda: 255)
    assert installed.handed_over(root).state == "ok"


def test_a_kernel_that_keeps_no_limit_of_memory(tmp_path: Path) -> None:
    assert installed.memory_limits(tmp_path).state == "ok", "cgroups of version 1 do not tell"
    root = _tree(tmp_path, **{"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io pids\n"})
    assert (installed.memory_limits(root).state, "cgroup_enable=memory" in installed.memory_limits(root).advice) == ("warn", True)
    _tree(root, **{"sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"})
    assert installed.memory_limits(root).state == "ok"


def test_a_board_that_asks_for_more_current_than_it_gets(tmp_path: Path) -> None:
    root = _tree(tmp_path, **{"sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n", "sys/class/hwmon/hwmon3/oc3_event_cnt": "7\n"})
    found = board.throttling(root)
    assert (found.state, found.text) == ("warn", "too much current: oc3 7 times since the start")


def test_who_may_open_a_device(tmp_path: Path) -> None:
    node = tmp_path / "video0"
    node.touch()
    os.chown(node, 0, 44)
    node.chmod(0o660)
    assert board.may(node, 990, {991, 44})
    assert not board.may(node, 990, {991})
    node.chmod(0o606)
    assert not board.may(node, 990, {44}), "the group's rights count before those of others"
    assert board.may(node, 990, {991})


def test_the_gpu_of_an_orin() -> None:
    """nvgpu is in /proc/devices under the name of its device; fnmatch compares as systemd does."""
    allowed = re.findall(r"^DeviceAllow=char-(\S+) rw$", own_texts()["almena-vision.service"], re.MULTILINE)
    names = ("mem", "tty", "input", "gpiochip", "17000000.gpu", "17000000.ga10b", "host1x-fence", "drm", "nvidia-uvm", "video4linux")
    assert [name for name in names if not any(fnmatchcase(name, pattern) for pattern in allowed)] == ["mem", "tty", "input", "gpiochip"]
    for node in ("nvgpu/igpu0/ctrl", "host1x-fence", "nvmap"):
        assert any(PurePath(node).match(pattern) for pattern in installed.DEVICES), node


def test_certificates_by_their_dates(tmp_path: Path) -> None:
    pair = Authority(tmp_path).client("gate")
    tls = TlsSettings(ca_file=tmp_path / "ca.pem", cert_file=pair.cert, key_file=pair.key)
    settings, now = Settings(mqtt=MqttSettings(tls=tls)), datetime.now(timezone.utc)
    assert [check.state for check in certificates.certificates(settings, now)] == ["warn", "warn"], "two days are left"
    early, late = (certificates.certificates(settings, now + timedelta(days=days))[1] for days in (-1, 3))
    assert (early.state, "Set the clock" in early.advice) == ("fail", True)
    assert (late.state, "expired on" in late.text, "almena join" in late.advice) == ("fail", True, True)
    pair.cert.write_text("no certificate")
    assert certificates.certificates(settings, now)[1].state == "fail"
    assert certificates.certificates(Settings()) == []
    (tmp_path / "ca.pem").write_bytes(FleetCa.new("Almena fleet").pem)
    ca = [certificates.certificates(settings, now + timedelta(days=days))[0] for days in (3500, 3600)]
    assert [check.state for check in ca] == ["ok", "warn"], "who has to replace a CA needs months"
    assert "whoever runs the CA" in ca[1].advice
