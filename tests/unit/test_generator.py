"""What almena.generator makes of the units for a systemd that hands over no folder of credentials."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from engines.files import text_of
from provisioning.host.places import own_texts

pytestmark = pytest.mark.unit


def _generated(tmp_path: Path, version: int, settings: str, refused: tuple[str, ...] = ()) -> dict[str, str]:
    """Drop-ins by unit, with a `systemctl` that says this version, and /etc in a folder; `refused` are files that it must name."""
    etc, out, programs = tmp_path / "etc", tmp_path / "out", tmp_path / "bin"
    system = etc / "systemd/system"
    for folder in (system, programs, *(etc / "almena" / name for name in ("keys", "uplink", "vision", "dicom"))):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in own_texts().items():
        (system / name).write_text(text.replace("/etc/", f"{etc}/"))
    (etc / "almena/almena.yaml").write_text(settings)
    (etc / "almena/uplink/broker.password").write_text("x")
    (etc / "almena/uplink/old").mkdir(exist_ok=True)
    for name in refused:
        (etc / "almena/uplink" / name).write_text("x")
    (programs / "systemctl").write_text(f"#!/bin/sh\necho 'systemd {version} ({version}.11-0ubuntu3)'\necho +PAM\n")
    (programs / "systemctl").chmod(0o755)
    script = tmp_path / "generator"
    log = tmp_path / "kmsg"
    script.write_text(own_texts()["almena.generator"].replace("/etc/", f"{etc}/").replace("/dev/kmsg", str(log)))
    path = f"{programs}:{os.environ['PATH']}"
    done = subprocess.run(["sh", str(script), str(out)], env={"PATH": path}, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    told = "<4>almena: {} is not handed over: rename it, with letters, digits and . _ @ + - only\n"
    assert text_of(log) == "".join(told.format(etc / "almena/uplink" / name) for name in refused).strip()
    return {file.parent.name: file.read_text().replace(str(etc), "/etc") for file in out.glob("*/*.conf")}


def test_each_file_is_a_credential_of_its_own(tmp_path: Path) -> None:
    made = _generated(tmp_path, 249, "dicom: {}\n")
    assert set(made) == {f"almena-{name}.service.d" for name in ("uplink", "vision", "dicom")}
    assert made["almena-uplink.service.d"].splitlines() == [
        "[Service]",
        "ExecCondition=",
        "LoadCredential=",
        "LoadCredential=uplink_broker.password:/etc/almena/uplink/broker.password",
    ]
    keys = re.findall(r"^LoadCredential=(\S+):", made["almena-vision.service.d"], re.MULTILINE)
    assert keys == ["gallery.key", "studies.key"], "an empty folder hands over nothing"
    assert "ConditionPathExists" not in made["almena-dicom.service.d"]


def test_a_name_that_a_unit_would_read_as_something_else_is_refused(tmp_path: Path) -> None:
    """Blanks, specifiers (systemd.unit(5)), and lines of their own."""
    made = _generated(tmp_path, 249, "device: {}\n", (" ", "%h", "a\nExecStart=b", "a b", "a:b"))
    keys = [line for line in made["almena-uplink.service.d"].splitlines() if line not in ("[Service]", "ExecCondition=")]
    assert keys == ["LoadCredential=", "LoadCredential=uplink_broker.password:/etc/almena/uplink/broker.password"]


def test_a_process_that_the_settings_do_not_want(tmp_path: Path) -> None:
    made = _generated(tmp_path, 249, "device: {}\n")
    assert made["almena-dicom.service.d"].endswith("[Unit]\nConditionPathExists=/never\n")
    assert "ConditionPathExists" not in made["almena-uplink.service.d"]


def test_a_systemd_that_hands_over_folders_needs_nothing(tmp_path: Path) -> None:
    assert _generated(tmp_path, 251, "dicom: {}\n") == {}


def test_no_unit_looks_for_modules_where_a_service_may_write() -> None:
    """`python -m` looks in the working folder first, and an environment with the system's packages in the user's home."""
    units = {name: text for name, text in own_texts().items() if re.search(r"^ExecStart=\S+ -m ", text, re.MULTILINE)}
    assert len(units) == 4
    for name, text in units.items():
        assert re.findall(r"^WorkingDirectory=(.*)$", text, re.MULTILINE) in ([], ["/"]), name
        assert "PYTHONNOUSERSITE=1" in text or name == "almena-trial.service", name
