"""Stage `package` of the field test, inside the machine: the Debian packages."""

from __future__ import annotations

import os
import time
from pathlib import Path

from guest_common import DEB, FIELD, bare, configure, events, run, shown, wait
from guest_fleet import ready

UNIT = Path("/usr/lib/systemd/system/almena-vision.service")
OVERRIDE = Path("/etc/systemd/system/almena-vision.service")


def package() -> str:
    """Installed without network; removed, nothing but data is left."""
    bare()
    took = _installed("almena_0*")
    configure("openvino")
    events(1, 180)
    run("dpkg", "-r", "almena")
    assert not Path("/opt/almena").exists()
    assert Path("/var/lib/almena/outbox/outbox.db").exists()
    run("dpkg", "--purge", "almena")
    _nothing_left()
    return f"installed in {took:.0f} s, events arrived, removed, purged, nothing left"


def package_upgrade() -> str:
    """What dpkg has put to /usr/lib stays as it is, whichever release runs."""
    _installed("almena_0*")
    configure("openvino")
    events(1, 180)
    before = os.readlink("/opt/almena/current")
    took = _installed("almena_99*")
    new = os.readlink("/opt/almena/current")
    assert "99.1" in new, new
    assert "# of 99.1" in UNIT.read_text()
    assert not OVERRIDE.exists()
    run("almena", "rollback")
    assert os.readlink("/opt/almena/current") == before
    assert "# of 99.1" not in OVERRIDE.read_text(), "the units go back with their release"
    assert shown("almena-vision", "FragmentPath") == str(OVERRIDE)
    assert run("dpkg", "--verify", "almena").strip() == "", "what dpkg wrote is as it was"
    events(1, 120)
    run("almena", "rollback")
    assert os.readlink("/opt/almena/current") == new
    assert not OVERRIDE.exists()
    assert shown("almena-vision", "FragmentPath") in (str(UNIT), str(UNIT).removeprefix("/usr"))
    events(1, 120)
    run("dpkg", "--purge", "almena")
    _nothing_left()
    return f"{before} -> {new} in {took:.0f} s, back, and forward again; the package's own files stayed as they were"


def package_of_a_hub() -> str:
    """Starts by itself, and waits for a broker; the enrolment server waits for a fleet."""
    took = _installed("almena-hub_*")
    wait("the hub", lambda: shown("almena-hub", "ActiveState") == "active", 60)
    assert shown("almena-enrol", "ConditionResult") == "no"
    assert not ready(), "there is no broker"
    run("dpkg", "--purge", "almena-hub")
    _nothing_left()
    return f"installed in {took:.0f} s; the hub runs, and waits for its broker; removed, purged, nothing left"


def _installed(pattern: str) -> float:
    (deb,) = (FIELD / "deb").glob(pattern)
    began = time.monotonic()
    run("dpkg", "-i", str(deb))
    assert DEB.is_dir()
    return time.monotonic() - began


def _nothing_left() -> None:
    left = run("find", "/etc", "/usr", "/opt", "/var/lib", "/run", "-xdev", "-iname", "*almena*").split()
    assert not left, left
