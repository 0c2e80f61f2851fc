"""The service that `almena install` makes: its release, its processes, and what its accounts may open. `root` stands for `/`."""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from stat import S_IMODE

from agent.checkup import Check
from agent.checkup.board import may
from agent.clock import kernel_synchronised
from engines.files import text_of

USER = "almena-vision"
UNITS = ("almena-uplink.service", "almena-vision.service")
HUB = ("almena-hub.service", "almena-enrol.service")
TEGRA = ("nvmap", "nvhost-*gpu*", "nvgpu/igpu*/*", "host1x-fence")
DEVICES = ("video[0-9]*", "media[0-9]*", "dri/render*", "accel/accel*", "nvidia[0-9]*", *TEGRA, "dma_heap/*")
SYNCED_MARK = "run/systemd/timesync/synchronized"
HANDED_FOLDERS = ("vision", "uplink", "dicom", "hub")
HANDED_FILES = ("keys", "enrol")
"""Folders of /etc/almena of which units name single files."""
HANDED_NAME = re.compile(r"[A-Za-z0-9._@+-]+")
"""As almena.generator has it."""
WHOLE_FOLDERS = 251
"""The version of systemd from which on it hands over folders of credentials; before, almena.generator lists their files."""


def installed_checks(root: Path = Path("/")) -> list[Check]:
    """Nothing but that there is no service, where there is none."""
    current = root / "opt/almena/current"
    if not current.is_symlink():
        return [Check("service", "ok", "not installed; `sudo almena install` makes one that starts at boot")]
    both = [service(root), folders(root), secrets(root), handed_over(root), memory_limits(root)]
    return both if is_hub(root) else [*both, devices(root), service_clock(root)]


def is_hub(root: Path = Path("/")) -> bool:
    """Whether this host is a fleet's hub, and no device."""
    return any((root / lib / "systemd/system" / HUB[0]).exists() for lib in ("etc", "usr/lib"))


def service(root: Path) -> Check:
    """Release, way back, and whether the processes run."""
    release = Path(os.readlink(root / "opt/almena/current")).name
    before = root / "opt/almena/previous"
    text = f"release {release}" + (f", before it {Path(os.readlink(before)).name}" if before.is_symlink() else "")
    if (root / "opt/almena/trial").exists():
        return Check("service", "warn", f"{text}; on trial", "Wait: `systemctl status almena-trial` tells; it goes back by itself.")
    enrols = os.path.exists(root / "var/lib/almena/fleet/fleet.yaml")
    units = HUB[: 1 + enrols] if is_hub(root) else UNITS
    states = {unit: _state(unit) for unit in units}
    down = [f"{unit} is {state}" for unit, state in states.items() if state != "active"]
    if down:
        advice = "sudo systemctl start almena.target; why it ended: journalctl -u 'almena-*' -n 50"
        return Check("service", "fail", f"{text}; {', '.join(down)}", advice)
    if given_up := _given_up(root):
        advice = f"/opt/almena/last-upgrade.json and `journalctl -u almena-trial` tell why; {release} runs."
        return Check("service", "warn", f"{text}; {given_up}", advice)
    if is_hub(root):
        return Check("service", "ok", f"{text}; the hub runs{', and the enrolment server' if enrols else ''}; see `almena hub doctor`, too")
    return Check("service", "ok", f"{text}; vision and uplink run")


def _given_up(root: Path) -> str:
    """What became of the last upgrade, "" of one that stayed."""
    try:
        verdict = (root / "opt/almena/last-upgrade.json").read_text()
        last = json.loads(verdict)
        when = datetime.fromtimestamp(last["at"], timezone.utc)
        return "" if last["kept"] else f"the upgrade to {last['release']} was given up on {when:%Y-%m-%d %H:%M} UTC"
    except OSError:
        return ""
    except (ValueError, KeyError, TypeError, OverflowError):
        return "what became of the last upgrade cannot be read"


def devices(root: Path) -> Check:
    """Cameras and accelerators that almena-vision may open."""
    try:
        account = pwd.getpwnam(USER)
    except KeyError:
        return Check("permissions", "fail", f"there is no account {USER}", "sudo almena install makes it again.")
    groups = {account.pw_gid, *(group.gr_gid for group in grp.getgrall() if USER in group.gr_mem)}
    nodes = [node for pattern in DEVICES for node in sorted((root / "dev").glob(pattern))]
    closed = sorted({f"{_owner(node)} {node}" for node in nodes if not may(node, account.pw_uid, groups)})
    if closed:
        advice = f"sudo usermod -aG GROUP {USER}, or a rule of udev; then sudo systemctl restart almena-vision."
        return Check("permissions", "warn", f"{USER} may not open {', '.join(closed)}", advice)
    return Check("permissions", "ok", f"{USER} may open {len(nodes)} devices" if nodes else "no device to open")


def folders(root: Path) -> Check:
    """Mode and owner of settings and data are as the installation made them."""
    told = text_of(root / "etc/tmpfiles.d/almena.conf") or text_of(root / "usr/lib/tmpfiles.d/almena.conf")
    wanted = [line.split() for line in told.splitlines() if line[:2] in ("d ", "z ")]
    wrong = []
    try:
        for _, name, mode, user, group, *_ in wanted:
            path = root / name.lstrip("/")
            if not path.is_symlink() and not path.exists():
                wrong.append(f"{name} is missing")
                continue
            is_so = f"{S_IMODE(path.lstat().st_mode):04o} {_owner(path)}"
            if is_so != f"{mode} {user}:{group}":
                wrong.append(f"{name} is {is_so}, not {mode} {user}:{group}")
    except PermissionError:
        return Check("folders", "ok", "not for this user to see; `sudo almena doctor` looks")
    if wrong:
        return Check("folders", "fail", "; ".join(wrong), "sudo systemd-tmpfiles --create almena.conf, or `sudo almena install` again.")
    return Check("folders", "ok", f"{len(wanted)} as the installation made them")


def handed_over(root: Path) -> Check:
    """An older systemd hands over each file by its name, as it was at the last daemon-reload."""
    version = _systemd_version()
    if version is None or version >= WHOLE_FOLDERS:
        return Check("credentials", "ok", f"handed over by folder (systemd {version or 'unknown'})")
    listed = "".join(text_of(path) for path in (root / "run/systemd/generator").glob("almena-*.service.d/10-almena.conf"))
    named = map(Path, re.findall(r"^LoadCredential=[^:]+:(.*)$", listed, re.MULTILINE))
    known = {path for path in named if path.parent.name not in HANDED_FILES}
    try:
        there = {Path("/") / path.relative_to(root) for path in _secret_files(root, HANDED_FOLDERS)}
    except PermissionError:
        return Check("credentials", "ok", "not for this user to see; `sudo almena doctor` looks")
    if there != known:
        names = ", ".join(sorted(str(path) for path in there ^ known))
        advice = "sudo systemctl daemon-reload && sudo systemctl restart almena.target"
        if any(not HANDED_NAME.fullmatch(path.name) for path in there - known):
            advice += "; rename what has other characters than letters, digits and . _ @ + - first: systemd is not given it"
        return Check("credentials", "fail", f"systemd {version} has not seen that these came or went: {names}", advice)
    return Check("credentials", "ok", f"{len(known)} files, each by its name (systemd {version})")


def memory_limits(root: Path) -> Check:
    """Whether the kernel holds the processes to their MemoryMax=; Raspberry Pi OS starts without."""
    found = text_of(root / "sys/fs/cgroup/cgroup.controllers").split()
    if found and "memory" not in found:
        advice = "Add cgroup_enable=memory to the line in /boot/firmware/cmdline.txt, and restart; until then MemoryMax= has no effect."
        return Check("memory limits", "warn", "this kernel was started without the memory controller", advice)
    return Check("memory limits", "ok", "kept by the kernel")


def secrets(root: Path) -> Check:
    """Keys and passwords are root's alone."""
    folder = root / "etc/almena"
    try:
        secret = [path for path in _secret_files(root, (*HANDED_FILES, *HANDED_FOLDERS)) if _is_secret(path)]
        open_ = [str(path) for path in secret if path.stat().st_uid != 0 or path.stat().st_mode & 0o077]
    except PermissionError:
        return Check("secrets", "ok", "not for this user to see; `sudo almena doctor` looks")
    if open_:
        advice = f"sudo chown root:root {' '.join(open_)} && sudo chmod 600 {' '.join(open_)}; units hand them over."
        return Check("secrets", "warn", f"others may read {', '.join(open_)}", advice)
    return Check("secrets", "ok", f"{len(secret)} files of root alone in {folder}")


def service_clock(root: Path) -> Check:
    """The confined processes may not ask the kernel; they go by systemd-timesyncd's mark."""
    try:
        synced = kernel_synchronised()
    except OSError:
        synced = False
    if synced and not (root / SYNCED_MARK).exists():
        advice = "The clock is right, but another service than systemd-timesyncd keeps it: docs/service.md has the lines for it."
        return Check("service clock", "warn", "vision and uplink cannot see that the clock is right: events are `unsynced`", advice)
    return Check("service clock", "ok", "as above")


def _secret_files(root: Path, names: Iterable[str]) -> list[Path]:
    """What is in these folders of /etc/almena. Raises PermissionError."""
    parts = [root / "etc/almena" / name for name in names]
    return [path for part in parts if part.is_dir() for path in (part / name for name in os.listdir(part)) if path.is_file()]


def _is_secret(path: Path) -> bool:
    """Anything but a certificate without a key. Raises PermissionError."""
    return path.suffix not in (".pem", ".crt") or b"PRIVATE KEY" in path.read_bytes()


def _owner(path: Path) -> str:
    """Names of owner and group, or the numbers that have no name."""
    found = path.lstat()
    try:
        user = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        user = str(found.st_uid)
    try:
        return f"{user}:{grp.getgrgid(found.st_gid).gr_name}"
    except KeyError:
        return f"{user}:{found.st_gid}"


def _systemd_version() -> int | None:
    try:
        said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"systemd (\d+)", said)
    return int(found[1]) if found else None


def _state(unit: str) -> str:
    """As systemctl says it."""
    if shutil.which("systemctl") is None:
        return "unknown: there is no systemctl"
    try:
        done = subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True, timeout=10, check=False)
    except subprocess.TimeoutExpired:
        return "unknown: systemd does not answer"
    return done.stdout.strip() or "unknown"
