"""What all stages of the field test need inside the machine. Python's own library only."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

FIELD, OUT = Path("/field"), Path("/out")
SETTINGS = Path("/etc/almena/almena.yaml")
TOOL = Path("/srv/tool")
SERVICES = ("almena-uplink", "almena-vision")
DEB = Path("/usr/share/almena/wheels")
SUBSCRIBE = ["mosquitto_sub", "-h", "127.0.0.1", "-p", "8883", "--cafile", "/field/tls/ca.pem", "--cert", "/field/tls/hub.pem"]
YAML = """\
device: {name: gate}
state_dir: /var/lib/almena
gallery: {key_file: /etc/almena/keys/gallery.key}
engines: {backend: BACKEND}
streams:
- name: hall
  source: {type: video, path: /var/lib/almena/clip.mp4, loop: true}
  tasks: [TASK]
mqtt:
  host: localhost
  port: 8883
  tls: {ca_file: /etc/almena/uplink/ca.pem, cert_file: /etc/almena/uplink/gate.pem, key_file: /etc/almena/uplink/gate.key}
  delivery: broker
"""


def run(*command: str, within_s: float = 600, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=within_s, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: code {done.returncode}: {(done.stdout + done.stderr)[-1500:]}")
    return done.stdout + done.stderr


def wait(what: str, condition: Callable[[], Any], within_s: float = 120) -> Any:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.2)
    logs = run("journalctl", "--no-pager", "-o", "cat", "-n", "12", "-u", "almena-*", check=False)
    raise RuntimeError(f"waited {within_s:.0f} s for {what}\n{logs}")


def shown(unit: str, name: str) -> str:
    return run("systemctl", "show", "-P", name, f"{unit}.service").strip()


def events(count: int, within_s: float = 120) -> list[dict[str, Any]]:
    """So many events that the broker delivers to the hub's certificate."""
    topic = "almena/1/gate/up/event/#"
    said = run(*SUBSCRIBE, "--key", "/field/tls/hub.key", "-t", topic, "-C", str(count), "-W", str(int(within_s)), within_s=within_s + 10)
    return [json.loads(line) for line in said.splitlines()]


def api(path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:8642/api/1/{path}", timeout=5) as answer:
        return json.load(answer)


def start_broker() -> str:
    folder = Path("/srv/broker")
    folder.mkdir(exist_ok=True)
    shutil.copytree(FIELD / "tls", folder, dirs_exist_ok=True)
    (folder / "acl").write_text("user hub\ntopic read almena/1/#\npattern write almena/1/%u/up/#\npattern write almena/1/%u/status\n")
    lines = ["listener 8883 127.0.0.1", "cafile ca.pem", "certfile server.pem", "keyfile server.key", "require_certificate true"]
    lines += ["use_identity_as_username true", "acl_file acl", "user root"]
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    (folder / "acl").chmod(0o700)
    run("systemd-run", "--unit=broker", "--working-directory=/srv/broker", "mosquitto", "-c", "mosquitto.conf")
    return run("mosquitto", "-h", check=False).splitlines()[0]


def tool() -> None:
    """An environment from which root calls `almena`, as from a checkout."""
    if not TOOL.exists():
        run(sys.executable, "-m", "venv", str(TOOL))
        run(f"{TOOL}/bin/pip", "install", "--no-index", "--find-links", "/field/wheels", "--disable-pip-version-check", "-q", "almena")


def given(wheel: str = "") -> list[str]:
    (own,) = Path("/field/wheels").glob("almena-*.whl")
    return ["--wheel", wheel or str(own), "--wheels", "/field/wheels"]


def almena(*arguments: str, check: bool = True) -> str:
    return run(f"{TOOL}/bin/almena", *arguments, check=check)


def bare() -> None:
    """Nothing of Almena is left of an earlier stage."""
    tool()
    if DEB.exists():
        run("dpkg", "--purge", "almena", "almena-hub", check=False)
    almena("uninstall", "--purge")


def configure(backend: str, task: str = "{type: faces}") -> None:
    SETTINGS.write_text(YAML.replace("BACKEND", backend).replace("TASK", task))
    folder = Path("/etc/almena/uplink")
    for name in ("ca.pem", "gate.pem", "gate.key"):
        shutil.copy(FIELD / "tls" / name, folder / name)
        (folder / name).chmod(0o600 if name.endswith("key") else 0o644)
    models = Path("/var/lib/almena/models")
    if not (models / "centerface.onnx").exists():
        shutil.copytree(FIELD / "models", models, dirs_exist_ok=True)
        shutil.copy(FIELD / "clip.mp4", "/var/lib/almena/clip.mp4")
        run("chown", "-R", "almena-vision:almena", str(models), "/var/lib/almena/clip.mp4")
    run("systemctl", "restart", "almena.target", "almena-vision", "almena-uplink")


def tried(names: tuple[str, ...], expected: dict[str, set[str]]) -> dict[str, Any]:
    """What processes may do under the properties of these units, found out by a probe in their place, and what all may be meant to do."""
    found = {}
    for name in names:
        unit = run("systemctl", "cat", f"almena-{name}.service")
        unit = re.sub(r"^(ExecStart)=.*", r"\1=/usr/bin/python3 /usr/local/lib/probe.py", unit, flags=re.MULTILINE)
        unit = re.sub(r"^(Type|Restart|WatchdogSec|ExecCondition|ConditionPathExists|SyslogIdentifier)=.*\n", "", unit, flags=re.MULTILINE)
        unit = unit.replace("[Service]", f"[Service]\nType=oneshot\nStandardOutput=file:/run/probe-{name}.json")
        Path(f"/run/systemd/system/probe-{name}.service").write_text(unit)
        shutil.copy(FIELD / "probe.py", "/usr/local/lib/probe.py")
        run("systemctl", "daemon-reload")
        run("systemctl", "start", f"probe-{name}")
        found[name] = json.loads(Path(f"/run/probe-{name}.json").read_text())
    for path in Path("/var/lib/almena").glob("*/probe-*"):
        path.unlink()
    (OUT / f"confinement-{names[0]}.json").write_text(json.dumps(found, indent=2))
    for name, seen in found.items():
        allowed = {what for what, outcome in seen["tries"].items() if outcome == "done"}
        meant = {"tcp socket", "write /tmp"} | expected[name]
        assert allowed == meant, f"{name} may {sorted(allowed ^ meant)}: {seen}"
        assert (seen["NoNewPrivs"], seen["Seccomp"], int(seen["CapBnd"], 16)) == ("1", "2", 0), seen
        assert seen["user namespace of its own"], seen
    return found


def hung(unit: str, back: Callable[[], object]) -> str:
    """SIGSTOP: systemd must see that the signs of life cease, and start the process again, after which `back` returns."""
    before, limit = shown(unit, "MainPID"), shown(unit, "WatchdogUSec")
    stopped = time.monotonic()
    os.kill(int(before), signal.SIGSTOP)
    wait("another process", lambda: shown(unit, "MainPID") not in (before, "0"), 150)
    again = time.monotonic() - stopped
    wait(f"{unit} to be ready", lambda: shown(unit, "ActiveState") == "active", 120)
    back()
    why = run("journalctl", "-o", "cat", "-u", unit, "-n", "200")
    assert "Watchdog timeout" in why, why
    assert "Fatal Python error: Aborted" in why, "the stacks of its threads are not in the journal"
    return f"WatchdogSec {limit}: started again {again:.1f} s after SIGSTOP, well again {time.monotonic() - stopped:.1f} s after it"
