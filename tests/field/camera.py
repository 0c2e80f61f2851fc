"""The field test on a whole machine with a kernel of its own, inside it: a camera (vivid), version 2 of cgroups, devices to be kept from.

Python's own library only. Prints a line `FIELD {json}` for each step and powers off.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

LOG = Path("/run/try.log")
HOG = "x = bytearray(700 * 1024 * 1024)"
FORKS = "import threading, time; [threading.Thread(target=time.sleep, args=(9,), daemon=True).start() for _ in range(200)]"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return (done.stdout + done.stderr).strip()


def as_unit(name: str, command: str) -> tuple[str, str]:
    """Result and output of a command under the properties of a unit."""
    unit = (Path("/etc/systemd/system") / f"almena-{name}.service").read_text()
    unit = re.sub(r"^ExecStart=.*", lambda _: f"ExecStart={command}", unit, flags=re.MULTILINE)
    unit = re.sub(r"^(Type|Restart|WatchdogSec|ExecCondition|SyslogIdentifier)=.*\n", "", unit, flags=re.MULTILINE)
    unit = unit.replace("[Service]", f"[Service]\nType=oneshot\nStandardOutput=append:{LOG}\nStandardError=append:{LOG}")
    Path("/run/systemd/system/try.service").write_text(unit)
    LOG.write_text("")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", "try")
    return run("systemctl", "show", "-P", "Result", "try"), LOG.read_text().strip()


def frames() -> str:
    """The agent's own V4L2 source under the unit, with the camera's frames counted."""
    deadline = time.monotonic() + 500
    seen: list[float] = []
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen("http://127.0.0.1:8642/metrics", timeout=30) as answer:
                told = answer.read().decode()
        except OSError:
            told = ""
        if found := re.search(r'^almena_stream_frames_total\{.*result="processed".*\} ([\d.e+]+)$', told, re.MULTILINE):
            seen.append(float(found[1]))
        if seen and seen[-1] > seen[0] + 10:
            return f"{run('v4l2-ctl', '-d', '/dev/video0', '--info').split('Card type')[1].split()[1]}: {seen[-1]:.0f} frames processed"
        time.sleep(5)
    raise RuntimeError(f"no frames\n{run('journalctl', '-b', '-o', 'cat', '-n', '25', '-u', 'almena-*')}")


def devices() -> str:
    """Vision has cameras and no other device; uplink has none."""
    look = "/usr/bin/v4l2-ctl -d /dev/video1 --info"
    result, said = as_unit("vision", look)
    assert result == "success", said
    result, said = as_unit("uplink", look)
    assert result == "exit-code", said
    refused = []
    for device in ("/dev/fuse", "/dev/kmsg", "/dev/vda", "/dev/rfkill"):
        result, said = as_unit("vision", f"/usr/bin/head -c 1 {device}")
        assert result == "exit-code", f"{device}: {said}"
        refused.append(device)
    return f"vision opens /dev/video1 and none of {', '.join(refused)}; uplink sees no camera"


def limits() -> str:
    """What takes too much is stopped."""
    result, _ = as_unit("uplink", f'/usr/bin/python3 -c "{HOG}"')
    assert result == "oom-kill", result
    result, said = as_unit("uplink", f'/usr/bin/python3 -c "{FORKS}"')
    assert "can't start new thread" in said, said
    return "700 MB in uplink: killed (MemoryMax=512M); 200 threads: refused (TasksMax=128)"


def main() -> None:
    steps: tuple[Callable[[], str], ...] = (frames, devices, limits)
    for step in steps:
        started = time.monotonic()
        try:
            result = {"step": step.__name__, "ok": True, "saw": step()}
        except Exception as error:  # noqa: BLE001 - a step that failed is reported, and the next one is tried
            result = {"step": step.__name__, "ok": False, "saw": f"{type(error).__name__}: {error}"}
        print("FIELD", json.dumps(result | {"seconds": round(time.monotonic() - started, 1)}), flush=True)
    subprocess.run(["systemctl", "poweroff"], check=False)


if __name__ == "__main__":
    main()
