"""From one release to another with a way back: almena-trial.service switches, watches, and keeps the new one or puts back the one before,
with its units. almena-trial.path starts it. It is systemd's: no dropped connection and no power cut leaves the work half done."""

from __future__ import annotations

import json
import shutil
import time

from provisioning.host import releases, service, written
from provisioning.host.places import TRIAL, Places, processes, units
from provisioning.host.plan import HostError, Plan, run
from provisioning.host.settle import settle

STARTS = 2
"""So often a trial begins, of which the second is after a power cut: a release that crashes the machine is not tried for ever."""
ENDS_WITHIN_S = 1200.0


def begin(places: Places, before: str, new: str, plan: Plan) -> None:
    """Let systemd try `new`, and wait for the verdict. Raises HostError when `before` had to come back."""
    releases.point(places.previous, before)
    places.verdict.unlink(missing_ok=True)
    run(["systemctl", "daemon-reload"])
    _note(places, before, new, 0)
    why = ""
    try:
        run(["systemctl", "start", "--wait", TRIAL], timeout_s=ENDS_WITHIN_S)
    except HostError as error:
        why = str(error)
    if places.trial.exists():
        if service.state(TRIAL)["ActiveState"] in ("active", "activating"):
            raise HostError(f"the trial of {new} goes on by itself; `sudo almena doctor` tells how it ends")
        plan.say(f"{TRIAL} did not do its work, hence this process does: {why}")
        judge(places, plan)
        return
    if releases.target(places.current) != new:
        raise HostError(_said(places, new) or f"{before} runs, and release {new} does not: `journalctl -u {TRIAL}` says why")
    plan.say(_said(places, new) or f"release {new} runs")


def _said(places: Places, release: str) -> str:
    """The verdict on it; empty where it could not be written down."""
    try:
        verdict = json.loads(places.verdict.read_text())
        return str(verdict["said"]) if verdict["release"] == release else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def switch(places: Places, release: str, leaving: str | None, plan: Plan) -> None:
    """To the environment of a release, with its units, accounts and folders. Raises HostError, OSError."""
    texts = releases.texts_of(places, release)
    if not texts:
        raise HostError(f"{places.releases / release} has no units that can be read: it is damaged; install that version again")
    releases.point(places.current, release)
    settle(places, texts, plan, releases.texts_of(places, leaving))
    service.enable(places, units(texts))


def judge(places: Places, plan: Plan, starts_within_s: float = service.STARTS_WITHIN_S, stable_s: float = service.STABLE_S) -> None:
    """End the trial: the new release stays, or the one before comes back. Raises HostError when it had to."""
    before, new, starts = _read(places, plan)
    why = _noted(places, before, new, starts + 1) or _tried(places, new, before, plan, starts_within_s, stable_s)
    said = f"release {new} runs"
    if why:
        again = _back(places, before, new, plan, starts_within_s, stable_s)
        state = f"that one does not start either:\n{again}" if again else "that one runs"
        said = f"release {new} does not start, and {before} is back; {state}. What {new} said:\n{why}"
    verdict = {"release": new, "before": before, "kept": not why, "said": said, "at": round(time.time())}
    try:
        written.write(places.verdict, json.dumps(verdict, indent=2) + "\n")
    except OSError as error:
        plan.say(f"{places.verdict} cannot be written ({error.strerror}): make room on the disk")
    written.remove(places.trial)
    releases.retire(places)
    if why:
        raise HostError(said)
    plan.say(said)


def _read(places: Places, plan: Plan) -> tuple[str, str, int]:
    """The release before, the new one, and how often the trial has begun. Where the note is damaged, the links tell the two.

    Raises HostError where nothing was switched yet: then there is no trial any more.
    """
    try:
        noted = json.loads(places.trial.read_text())
        return str(noted["before"]), str(noted["release"]), int(noted["starts"])
    except (ValueError, KeyError, TypeError):
        before, new = releases.target(places.previous), releases.target(places.current)
    if before is None or new is None or before == new:
        written.remove(places.trial)
        raise HostError(
            f"{places.trial} was damaged and is removed; {new} runs on, and nothing else was tried: install the new release again"
        )
    plan.say(f"{places.trial} is damaged: by the links beside it, release {new} is on trial, and {before} was there before")
    return before, new, 0


def _back(places: Places, before: str, new: str, plan: Plan, starts_within_s: float, stable_s: float) -> str:
    """Return to the release before; why that does not run, or "". Where the disk is full, room is made of the new one."""
    again = _tried(places, before, new, plan, starts_within_s, stable_s)
    if again:
        shutil.rmtree(places.releases / new, ignore_errors=True)
        again = _tried(places, before, new, plan, starts_within_s, stable_s)
    releases.point(places.current, before)
    releases.point(places.previous, before)
    return again


def _noted(places: Places, before: str, new: str, starts: int) -> str:
    """Note another start of the trial; why there is none, or "". Raises HostError where the disk is full and nothing was switched yet."""
    if starts > STARTS:
        return f"the machine was started again in its trial {STARTS} times"
    try:
        _note(places, before, new, starts)
    except OSError as error:
        why = f"its trial cannot be noted ({error.strerror}): make room on the disk, and install it again"
        if releases.target(places.current) != before:
            return why
        written.remove(places.trial)
        raise HostError(f"{before} runs on, and release {new} was not tried: {why}") from error
    return ""


def _tried(places: Places, release: str, leaving: str, plan: Plan, starts_within_s: float, stable_s: float) -> str:
    """Switch to a release and watch it; why it does not run, or ""."""
    try:
        switch(places, release, leaving, plan)
        names = processes(releases.texts_of(places, release))
        service.restart(names)
        return service.trouble(names, starts_within_s, stable_s)
    except (HostError, OSError) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - texts of another release: whatever fails, the one before has to come back
        return f"{type(error).__name__}: {error}"


def _note(places: Places, before: str, new: str, starts: int) -> None:
    """From now on the trial is known, also after a power cut."""
    written.write(places.trial, json.dumps({"before": before, "release": new, "starts": starts}) + "\n")
