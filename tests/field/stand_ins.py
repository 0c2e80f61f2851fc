"""The units under another systemd: Debian 11 has version 247, older than the 249 of Ubuntu 22.04 and JetPack 6; Debian 13 has 257, newer
than the 255 of Ubuntu 24.04 and JetPack 7.

A stand-in says that it is ready, shows its credentials, and then tries what a confined process may do.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from provisioning.host import install as host
from provisioning.host.places import Places, own_texts, processes
from provisioning.host.plan import Plan

RELEASES = {"older": "bullseye", "newer": "trixie"}
"""The stages, and the releases of Debian that they boot."""
PACKAGES = "systemd,systemd-sysv,dbus,python3"
LEGACY = "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
"""Lets systemd 256 and 257 run where the kernel has cgroups of version 1."""
LIMIT_S = 300
STAND_IN = """\
import os, socket, subprocess, time
folder = os.environ["CREDENTIALS_DIRECTORY"]
print("handed", *sorted(os.listdir(folder)), flush=True)
subprocess.run(["/usr/bin/python3", "/srv/probe.py"])
bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
bell.connect(os.environ["NOTIFY_SOCKET"])
bell.send(b"READY=1")
while True:
    bell.send(b"WATCHDOG=1")
    time.sleep(5)
"""
GUEST = """\
import json, subprocess
def said(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout
found = {"version": said("systemctl", "--version").splitlines()[0]}
for name in NAMES:
    subprocess.run(["systemctl", "start", name])
    found[name] = [said("systemctl", "is-active", name).strip(), said("journalctl", "-o", "cat", "-u", name)]
open("/etc/almena/almena.yaml", "w").write("device: {name: gate}\\n")
subprocess.run(["systemctl", "daemon-reload"])
subprocess.run(["systemctl", "restart", "almena-dicom"])
found["skipped"] = said("systemctl", "show", "-p", "ActiveState,ConditionResult,Result", "almena-dicom").split()
json.dump(found, open("/found.json", "w"))
subprocess.run(["systemctl", "poweroff"])
"""
FIELD = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 /srv/guest.py
[Install]
WantedBy=multi-user.target
"""
EXPECTED = {"uplink": "uplink_broker.password", "vision": "gallery.key studies.key vision_door.password", "dicom": "studies.key"}


def prepare(stage: str, root: Path, mirror: str) -> None:
    """A minimal Debian with the units, and stand-ins for the processes."""
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASES[stage], str(root), mirror], check=True)
    places = Places(root)
    host.install(places, None, Plan(say=lambda _: None))
    names = processes(own_texts())
    for name in names:
        unit = places.units / name
        unit.write_text(re.sub(r"^ExecStart=.*", "ExecStart=/usr/bin/python3 /srv/stand-in.py", unit.read_text(), flags=re.MULTILINE))
    for name in ("uplink/broker.password", "vision/door.password"):
        (places.settings_dir / name).write_text("x")
        (places.settings_dir / name).chmod(0o600)
    places.settings.write_text("dicom: {}\n")
    shutil.copy(Path(__file__).with_name("probe.py"), root / "srv/probe.py")
    (root / "srv/stand-in.py").write_text(STAND_IN)
    (root / "srv/guest.py").write_text(GUEST.replace("NAMES", repr(names)))
    (places.units / "field.service").write_text(FIELD)
    (places.units / "multi-user.target.wants/field.service").symlink_to("../field.service")


def boot(stage: str, root: Path) -> dict[str, object]:
    """Run it; what it found, as a step of the report."""
    command = ["systemd-nspawn", "--quiet", "--directory", str(root), f"--machine={stage}", "--register=no", "--keep-unit"]
    with root.with_suffix(".log").open("wb") as log:
        done = subprocess.run(
            [*command, "--private-network", "--boot", LEGACY],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    try:
        return {"step": f"{stage} systemd", "ok": True, "seconds": 0, "saw": _judged(json.loads((root / "found.json").read_text()))}
    except (OSError, AssertionError) as error:
        return {"step": f"{stage} systemd", "ok": False, "seconds": 0, "saw": f"{error} (nspawn: {done.returncode})"}


def _judged(found: dict[str, object]) -> str:
    """Raises AssertionError where a unit does not run, or may more or less than it is meant to."""
    for name, credentials in EXPECTED.items():
        active, log = found[f"almena-{name}.service"]  # type: ignore[misc]
        assert active == "active", log
        assert f"handed {credentials}\n" in log, log
        seen = json.loads(next(line for line in log.splitlines() if line.startswith("{")))
        allowed = {what for what, outcome in seen["tries"].items() if outcome == "done"}
        assert allowed == {"write outbox", "tcp socket", "write /tmp"} | {
            "vision": {"writable code", "read gallery"},
            "uplink": {"read identity"},
        }.get(name, set()), f"{name}: {allowed}"
    skipped = set(found["skipped"])  # type: ignore[call-overload]
    assert "ActiveState=inactive" in skipped, skipped
    assert skipped & {"ConditionResult=no", "Result=exec-condition"}, skipped
    return f"{found['version']}: vision, uplink and dicom start, are handed each file, and may what they may elsewhere; dicom is skipped"
