"""Stages `service` and `upgrade` of the field test, inside the machine: a device."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from guest_common import (
    OUT,
    SERVICES,
    SETTINGS,
    TOOL,
    almena,
    api,
    configure,
    events,
    given,
    hung,
    run,
    shown,
    tool,
    tried,
    wait,
)


def install() -> str:
    tool()
    planned = almena("install", "--dry-run", *given())
    assert not Path("/opt/almena").exists(), "a dry run changed something"
    started = time.monotonic()
    said = almena("install", *given())
    took = time.monotonic() - started
    again = almena("install", *given())
    assert again.strip() == "everything is as it should be", again
    return (
        f"{len(planned.splitlines())} steps told by --dry-run, {len(said.splitlines())} done in {took:.0f} s; a second time nothing to do"
    )


def installed() -> str:
    """By an earlier stage, or now."""
    if not Path("/opt/almena/current").exists():
        install()
    configure("openvino")
    events(1, 300)
    return f"{os.readlink('/opt/almena/current')} runs"


def backends() -> str:
    told = []
    for backend in ("openvino", "onnxruntime"):
        configure(backend)
        wait(f"the engines of {backend}", lambda backend=backend: {e["backend"] for e in _engines()} == {backend}, 300)
        got = events(3, 120)
        kinds = sorted({event["kind"] for event in got})
        told.append(f"{backend}: {', '.join(sorted(e['model'] + ' ' + e['precision'] for e in _engines()))}; events {', '.join(kinds)}")
    return "; ".join(told)


def more_backends() -> str:
    """LiteRT and TensorFlow, which this machine would not get by itself, beside the others in the release: a small classifier on each."""
    models, told = Path("/var/lib/almena/models"), []
    more = ["--no-index", "--find-links", "/field/more/wheels", "ai-edge-litert", "tensorflow-cpu"]
    run("/opt/almena/current/bin/pip", "install", "--quiet", "--disable-pip-version-check", *more)
    run("cp", "-r", *map(str, Path("/field/more").glob("network.*")), str(models))
    run("chown", "-R", "almena-vision:almena", str(models))
    for backend in ("litert", "tensorflow"):
        shutil.copy(f"/field/more/{backend}.yaml", "/etc/almena")
        configure(backend, f"{{type: classification, model: /etc/almena/{backend}.yaml, hold_s: 0, update_s: 1}}")
        wait(f"the engine of {backend}", lambda backend=backend: {e["backend"] for e in _engines()} == {backend}, 300)
        wait("an answer", lambda: any(event["kind"] == "classification" for event in events(1, 60)), 120)
        told.append(f"{backend}: {_engines()[0]['precision']}, events classification")
    configure("openvino")
    events(3, 120)
    return "; ".join(told)


def _engines() -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = api("engines")
    except OSError:
        return []
    return found


def confinement() -> str:
    """The units' own properties, around a probe in the processes' place."""
    found = tried(
        ("vision", "uplink", "dicom"),
        {
            "vision": {"write outbox", "writable code", "read gallery"},
            "uplink": {"write outbox", "read identity"},
            "dicom": {"write outbox"},
        },
    )
    return f"as meant in vision, uplink and dicom: {len(found['vision']['tries'])} things tried in each"


def running_as_meant() -> str:
    told = []
    for unit in SERVICES:
        pid = shown(unit, "MainPID")
        status = Path(f"/proc/{pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        kilobytes = int(re.findall(r"VmRSS:\s*(\d+)", status)[0])
        told.append(f"{unit} runs as {shown(unit, 'User')}, {kilobytes // 1024} MiB")
    lines = run("journalctl", "-o", "cat", "-n", "20", "-u", "almena-vision", "_COMM=python").splitlines()
    assert all("message" in json.loads(line) for line in lines if line.startswith("{")), lines
    assert any(line.startswith("{") for line in lines), lines
    return "; ".join(told) + f"; {sum(line.startswith('{') for line in lines)} of the last {len(lines)} lines of the journal are JSON"


def planted() -> str:
    """Modules that one service puts where all may write are not what another one runs."""
    shared = Path("/var/lib/almena")
    plant = f"import pathlib; pathlib.Path('{shared}/run/planted').touch()\n"
    sites = [shared / f".local/lib/python3.{minor}/site-packages" for minor in range(10, 14)]
    for place in [shared, *sites]:
        place.mkdir(parents=True, exist_ok=True)
        for name in ("json.py", "sitecustomize.py", "usercustomize.py", "agent.py"):
            (place / name).write_text(plant)
            shutil.chown(place / name, "almena-vision", "almena")
    run("systemctl", "restart", "almena.target")
    events(3, 120)
    assert not Path(shared / "run/planted").exists(), "a service has run what another one had put there"
    assert [shown(unit, "NRestarts") for unit in SERVICES] == ["0"] * len(SERVICES)
    for name in ("json.py", "sitecustomize.py", "usercustomize.py", "agent.py"):
        (shared / name).unlink()
    shutil.rmtree(shared / ".local")
    return f"{4 * (1 + len(sites))} modules in {shared}, none of which {', '.join(SERVICES)} ran when started again"


def watchdog() -> str:
    """A hung vision is started again, and makes events again."""
    return hung("almena-vision", lambda: events(1, 120))


def identity() -> str:
    """Enrolled by root at the command line, known to the confined process."""
    run(
        "almena",
        "identity",
        "add",
        "Eileen Collins",
        "/var/lib/almena/models/astronaut.png",
        "--config",
        str(SETTINGS),
        "--consent",
        "test",
    )
    owners = {path.name: path.owner() for path in Path("/var/lib/almena/gallery").iterdir()}
    assert set(owners.values()) == {"almena-vision"}, owners
    deadline = time.monotonic() + 120
    while not any(event["data"].get("name") == "Eileen Collins" for event in events(1, 60)):
        assert time.monotonic() < deadline, "she was not recognised"
    return "root enrols a person, and vision recognises her"


def bad_upgrade() -> str:
    before = os.readlink("/opt/almena/current")
    started = time.monotonic()
    said = almena("install", *given("/field/broken/almena-99.0-py3-none-any.whl"), check=False)
    took = time.monotonic() - started
    assert os.readlink("/opt/almena/current") == before, said
    assert "does not start, and" in said, said
    events(1, 60)
    return f"release 99.0, which does not start, was given up after {took:.0f} s and {before} runs: {said.strip().splitlines()[-3][:150]}"


def upgrade_and_back() -> str:
    """Who asked for the upgrade is killed in its trial, as a dropped connection may do: systemd ends it. The units go with the releases."""
    before, unit = os.readlink("/opt/almena/current"), Path("/etc/systemd/system/almena-vision.service")
    started = time.monotonic()
    with subprocess.Popen([f"{TOOL}/bin/almena", "install", *given("/field/next/almena-99.1-py3-none-any.whl")]) as asked:
        wait("the trial", Path("/opt/almena/trial").exists, 300)
        asked.kill()
    wait("its end", lambda: not Path("/opt/almena/trial").exists(), 300)
    new, took = os.readlink("/opt/almena/current"), time.monotonic() - started
    assert "99.1" in new
    assert "# of 99.1" in unit.read_text(), "the new release's units"
    shown_by = [shown("almena-vision", "NeedDaemonReload")]
    almena("rollback")
    assert os.readlink("/opt/almena/current") == before
    assert "# of 99.1" not in unit.read_text(), "the units go back with their release"
    assert [*shown_by, shown("almena-vision", "NeedDaemonReload")] == ["no", "no"]
    events(1, 60)
    kept = len(list(Path("/opt/almena/releases").iterdir()))
    killed = f"`almena install` was killed in the trial, which ended by itself ({took:.0f} s)"
    return f"{before} -> {new} -> {before}, units too; {killed}; {kept} releases kept"


def mended() -> str:
    """What somebody has opened or given away is closed and given back by another `almena install`."""
    key, folder = Path("/etc/almena/keys/gallery.key"), Path("/var/lib/almena/gallery")
    key.chmod(0o644)
    folder.chmod(0o755)
    os.chown("/var/lib/almena/identity", 0, 0)
    said = almena("install", *given())
    assert (key.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700), said
    assert Path("/var/lib/almena/identity").owner() == "almena-uplink", said
    key.rename("/srv/gallery.key")
    key.symlink_to("/srv/gallery.key")
    refused = almena("install", *given(), check=False)
    assert "a link, which root does not follow" in refused, refused
    key.unlink()
    Path("/srv/gallery.key").rename(key)
    return "a key open to all, a folder with another mode and one of another owner were put right; a link in a key's place was refused"


def cut_the_power() -> None:
    """In the middle of the trial of a release that does not start."""
    (OUT / "before").write_text(os.readlink("/opt/almena/current"))
    with subprocess.Popen([f"{TOOL}/bin/almena", "install", *given("/field/broken/almena-99.0-py3-none-any.whl")]):
        wait("the trial", lambda: Path("/opt/almena/trial").exists() and "99.0" in os.readlink("/opt/almena/current"), 300)
        subprocess.run(["systemctl", "poweroff", "--force", "--force"], check=False)


def started_again() -> str:
    before = (OUT / "before").read_text()
    wait("the judgement", lambda: "does not start, and" in run("journalctl", "-b", "-o", "cat", "-u", "almena-trial"), 300)
    assert os.readlink("/opt/almena/current") == before
    assert not Path("/opt/almena/trial").exists()
    wait("the services", lambda: all(shown(unit, "ActiveState") == "active" for unit in SERVICES), 180)
    events(1, 120)
    return f"power cut in the trial of 99.0: {before} was back by itself and had stayed so for 15 s, and events arrived"


def doctor() -> str:
    said = subprocess.run(["almena", "doctor"], capture_output=True, text=True, timeout=120, check=False, cwd="/").stdout
    (OUT / "doctor.txt").write_text(said)
    return said.strip().splitlines()[-1]
