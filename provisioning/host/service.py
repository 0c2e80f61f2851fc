"""The units: enabled, started, and watched until they have proven themselves."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from provisioning.host.places import TRIAL_PATH, Places
from provisioning.host.plan import HostError, run

STARTS_WITHIN_S = 240.0
STABLE_S = 15.0
FAILS = 3
"""Restarts that leave no hope."""
OLDEST = 247
"""The version of systemd that brought LoadCredential= and ProtectProc=; before 251 almena.generator does the rest."""
TRIES = 3
BROKEN_OFF = ("Transport endpoint is not connected", "Connection reset by peer", "Connection timed out")
RUNNING = Path("/run/systemd/system")


def require_systemd() -> None:
    """Raises HostError on a host without systemd, or with too old a one."""
    if shutil.which("systemctl") is None:
        raise HostError("there is no systemd here; `almena run` runs the agent in the foreground, for a supervisor of your own")
    found = re.match(r"systemd (\d+)", _systemctl(["--version"]))
    if found and int(found[1]) < OLDEST:
        raise HostError(f"systemd {found[1]} is too old: the units need {OLDEST} (Debian 11, Ubuntu 22.04, JetPack 6). Upgrade the system")


def live(places: Places) -> bool:
    """Whether these units belong to the systemd that runs here, and not to an image."""
    return places.root == Path("/") and RUNNING.is_dir()


def enabled(places: Places, texts: Mapping[str, str]) -> bool:
    """Whether all of these units start at boot."""
    found = [(name, wanted) for name, text in texts.items() for wanted in re.findall(r"^WantedBy=(\S+)$", text, re.MULTILINE)]
    return all((places.at("/etc/systemd/system") / f"{wanted}.wants" / name).is_symlink() for name, wanted in found)


def enable(places: Places, names: Sequence[str]) -> None:
    """At every boot from now on."""
    if live(places):
        _systemctl(["daemon-reload"])
    _systemctl([*_root(places), "enable", "--quiet", *names])


def restart(names: Sequence[str]) -> None:
    """These processes, whether they run or not; a failed one is forgiven."""
    _systemctl(["daemon-reload"])
    _systemctl(["reset-failed", *names])
    _systemctl(["restart", "--no-block", TRIAL_PATH, "almena.target", *names])


def running(names: Sequence[str]) -> bool:
    """Whether each of them runs, or is skipped."""
    return all(_well(state(name)) for name in names)


def trouble(names: Sequence[str], starts_within_s: float = STARTS_WITHIN_S, stable_s: float = STABLE_S) -> str:
    """Wait until each of these processes has said that it is ready and has stayed so; returns why not, or "".

    A process that runs only where the settings want it may be skipped by its condition.
    """
    deadline, since = time.monotonic() + starts_within_s, 0.0
    counted: dict[str, str] = {}
    while True:
        states = {name: state(name) for name in names}
        now = time.monotonic()
        ready = all(map(_well, states.values()))
        restarts = {name: found["NRestarts"] + found["InvocationID"] for name, found in states.items()}
        if not ready or restarts != counted:
            since, counted = now, restarts
        elif now - since >= stable_s:
            return ""
        if now > deadline or any(int(found["NRestarts"]) >= FAILS for found in states.values()):
            return _told({name: found for name, found in states.items() if not _well(found)} or states)
        time.sleep(0.5)


def stop(places: Places, names: Sequence[str]) -> None:
    """Stop and forget these units."""
    if live(places):
        _systemctl(["stop", *names])
        _systemctl(["reset-failed", "almena-*"])
    _systemctl([*_root(places), "disable", "--quiet", *names])


def state(name: str) -> dict[str, str]:
    """What systemd knows of a unit."""
    asked = "ActiveState,NRestarts,Result,InvocationID,ConditionResult"
    lines = _systemctl(["show", "--property", asked, name]).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _well(found: dict[str, str]) -> bool:
    skipped = found["Result"] == "exec-condition" or found["ConditionResult"] == "no"
    return found["ActiveState"] == "active" or (found["ActiveState"] == "inactive" and skipped)


def _told(states: dict[str, dict[str, str]]) -> str:
    told = []
    for name, found in states.items():
        log = run(["journalctl", "--no-pager", "--output=cat", "--lines=6", f"_SYSTEMD_UNIT={name}"]).strip()
        told.append(f"{name}: {found['ActiveState']} ({found['Result']}, {found['NRestarts']} restarts)\n{log}")
    return "\n".join(told)


def _systemctl(arguments: Sequence[str]) -> str:
    """What it prints; asked again where systemd, busy or reloading, broke the connection off. Raises HostError."""
    for _ in range(TRIES - 1):
        try:
            return run(["systemctl", *arguments])
        except HostError as error:
            if not any(text in str(error) for text in BROKEN_OFF):
                raise
            time.sleep(1.0)
    return run(["systemctl", *arguments])


def _root(places: Places) -> list[str]:
    return [] if places.root == Path("/") else [f"--root={places.root}"]
