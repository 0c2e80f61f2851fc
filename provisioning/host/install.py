"""What `almena install`, `almena uninstall` and `almena rollback` do, and the scripts of the Debian package."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from provisioning.host import releases, service, trial
from provisioning.host.places import GROUP, TRIAL, USERS, Places, own_texts, processes, units
from provisioning.host.plan import HostError, Plan, run
from provisioning.host.releases import Recipe
from provisioning.host.settle import close, named, number, settle
from provisioning.host.written import point, write

KEYS = ("gallery.key", "studies.key")
CACHE = "/var/cache/almena-vision"
SETTINGS = """\
# Settings of this device. Every setting, with its default: almena.example.yaml in the documentation.
# `sudo almena check --config {path}` tells whether they are right; `sudo systemctl restart almena.target` applies them.
# Passwords and keys: files of root with mode 0600 in {folder}/vision (cameras) and {folder}/uplink (broker, page).
device:
  name: {device}
state_dir: /var/lib/almena
gallery:
  key_file: {folder}/keys/gallery.key
"""
HUB_SETTINGS = """\
# Settings of a fleet's hub. `sudo systemctl restart almena-hub` applies them.
# Passwords and keys: files of root with mode 0600 in {folder}/hub.
store: sqlite:////var/lib/almena/hub/hub.sqlite
broker:
  host: 127.0.0.1
"""


def install(places: Places, recipe: Recipe | None, plan: Plan) -> None:
    """Everything that is not yet as it should be. Without a recipe there is no environment, and nothing is started.

    Raises HostError: what was there before then runs on.
    """
    require_root(places, plan)
    require_alone(places)
    before = releases.target(places.current)
    new = recipe.name if recipe else None
    if (kept := releases.texts_of(places, before)) and ("almena-hub.service" in kept) != places.hub:
        other, option = ("a device", "without") if places.hub else ("a hub", "with")
        raise HostError(f"{other} is installed here: call `almena install` {option} --hub, or run `sudo almena uninstall` first; data stay")
    with _only_one(places, plan):
        if recipe:
            made = releases.made(places, recipe.name)
            plan.step(f"make the environment {places.releases / recipe.name}", not made, lambda: releases.make(places, recipe))
        if new and before and new != before and service.live(places):
            _foundation(places, kept, plan)
            plan.step(f"switch to release {new}", True, lambda: trial.begin(places, before, new, plan))
            return
        texts = recipe.texts if recipe else own_texts(places.hub)
        _foundation(places, texts, plan, kept if new and new != before else None)
        if new:
            _started(places, new, before, texts, plan)


def _foundation(places: Places, texts: Mapping[str, str], plan: Plan, before: Mapping[str, str] | None = None) -> None:
    """What a release stands on, with keys and settings."""
    settle(places, texts, plan, before)
    for name in () if places.hub else KEYS:
        key = places.settings_dir / "keys" / name
        plan.step(f"make the key {key}", not key.exists(), partial(write, key, secrets.token_hex(32) + "\n", 0o600))
        close(key, plan)
    draft = HUB_SETTINGS if places.hub else SETTINGS
    text = draft.format(device=device_name(socket.gethostname()), path="/etc/almena/almena.yaml", folder="/etc/almena")
    settings = places.settings
    plan.step(f"write {settings}", not settings.exists(), lambda: write(settings, text, 0o640, number(places, "group", GROUP)))


def _started(places: Places, new: str, before: str | None, texts: Mapping[str, str], plan: Plan) -> None:
    """Command and environment; at every boot, and now."""
    wanted = Path("/opt/almena/current/bin/almena")
    linked = places.command.is_symlink() and Path(os.readlink(places.command)) == wanted
    plan.step(f"link {places.command}", not linked and not places.packaged, partial(_link, places.command, wanted))
    plan.step(f"switch to release {new}", before != new, lambda: _point(places, new, before))
    names = processes(texts)
    plan.step("start the units at every boot", not service.enabled(places, texts), lambda: service.enable(places, units(texts)))
    if service.live(places):
        plan.step("start the units", plan.changed or not service.running(names), partial(service.restart, names))
        if not plan.dry and plan.changed and (why := service.trouble(names)):
            raise HostError(f"installed, but the units do not run:\n{why}")
    if not plan.dry:
        releases.retire(places)


def _point(places: Places, new: str, before: str | None) -> None:
    if before is not None:
        releases.point(places.previous, before)
    releases.point(places.current, new)


def rollback(places: Places, plan: Plan) -> None:
    """The last version runs again; a second call goes forward again. Raises HostError where there is none."""
    require_root(places, plan)
    now, before = releases.target(places.current), releases.target(places.previous)
    if now is None or before is None or before == now or not releases.made(places, before):
        raise HostError("there is no other release to go back to")
    with _only_one(places, plan):
        what = f"switch from release {now} to {before}"
        if service.live(places):
            plan.step(what, True, lambda: trial.begin(places, now, before, plan))
        else:
            plan.step(what, True, lambda: trial.switch(places, before, now, plan))
            plan.step(f"keep {now}", True, lambda: releases.point(places.previous, now))


def uninstall(places: Places, plan: Plan, *, purge: bool = False) -> None:
    """Nothing is left but settings, keys and data, which then belong to root; with `purge` not even they. Raises HostError while somebody
    installs."""
    require_root(places, plan)
    with _only_one(places, plan) if places.prefix.exists() else nullcontext():
        _take_away(places, plan)
        data = [folder for folder in (places.settings_dir, places.state) if folder.exists()]
        for folder in data:
            if purge:
                plan.step(f"remove {folder}", True, partial(shutil.rmtree, folder))
            else:
                plan.step(f"give {folder} to root", True, partial(run, ["chown", "--recursive", "root:root", str(folder)]))
        for user in USERS:
            plan.step(f"remove the account {user}", named(places, "passwd", user), partial(run, ["userdel", *_root(places), user]))
        for group in (*USERS, GROUP):
            plan.step(f"remove the group {group}", named(places, "group", group), partial(run, ["groupdel", *_root(places), group]))
        if service.live(places):
            plan.step("reload systemd", plan.changed, lambda: run(["systemctl", "daemon-reload"]))
        plan.step(f"remove {places.prefix}", places.prefix.exists(), partial(shutil.rmtree, places.prefix))
    if data and not purge:
        plan.say(f"kept: {', '.join(map(str, data))}; `almena install` takes them over, --purge would have removed them")
    if not plan.changed:
        plan.say("nothing of Almena is here")


def _take_away(places: Places, plan: Plan) -> None:
    """Units, command and cache."""
    files = places.written(own_texts() | own_texts(hub=True) | releases.texts_of(places, releases.target(places.current)))
    there = [path.name for path in files if path.parent == places.units and places.there(path)]
    plan.step("stop the units", bool(there), lambda: service.stop(places, there))
    for path in files:
        plan.step(f"remove {path}", path.exists(), path.unlink)
    if not places.packaged:
        for folder in places.at("/etc/systemd/system").glob("almena-*.service.d"):
            plan.step(f"remove {folder}", True, partial(shutil.rmtree, folder))
        plan.step(f"remove {places.command}", places.command.is_symlink(), places.command.unlink)
    plan.step(f"remove {places.at(CACHE)}", places.at(CACHE).exists(), partial(shutil.rmtree, places.at(CACHE)))


@contextmanager
def _only_one(places: Places, plan: Plan) -> Iterator[None]:
    """Nobody else installs, rolls back or uninstalls meanwhile. Raises HostError."""
    if places.trial.exists():
        raise HostError(f"an upgrade is on trial: wait for its end (`sudo almena doctor`), or have it judged: sudo systemctl start {TRIAL}")
    if plan.dry:
        yield
        return
    releases.require_writable(places.prefix)
    folder = os.open(places.prefix, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HostError("another `almena install`, `rollback` or `uninstall` is at work: wait for its end") from error
        yield
    finally:
        os.close(folder)


def require_root(places: Places, plan: Plan) -> None:
    """Raises HostError for who may not, and for a host without systemd."""
    os.umask(0o022)
    if os.geteuid() != 0 and not plan.dry:
        raise HostError("this changes the system: run it with sudo, or look at what it would do with --dry-run")
    if places.settings_dir.exists() and not os.access(places.settings_dir, os.R_OK | os.X_OK):
        raise HostError(f"{places.settings_dir} is for root to see: run it with sudo, also with --dry-run")
    if not places.root.is_dir():
        raise HostError(f"{places.root} is no folder: --root is where the image of a system is mounted")
    service.require_systemd()


def require_alone(places: Places) -> None:
    """The Debian package and `almena install` do not mix. Raises HostError."""
    if places.packaged and Places(places.root).command.is_symlink():
        raise HostError("`almena install` has been here: run `sudo almena uninstall` first; settings and data stay")
    if not places.packaged and places.wheels.is_dir():
        raise HostError("Almena is installed here as a Debian package: upgrade that, or remove it first (apt remove almena); data stay")


def device_name(host: str) -> str:
    """A device's name made of a host's: lower-case letters, digits, dashes."""
    name = re.sub(r"[^a-z0-9]+", "-", host.partition(".")[0].lower()).strip("-")[:63]
    return name if name and name != "hub" else "almena"


def _link(link: Path, wanted: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    point(link, wanted)


def _root(places: Places) -> list[str]:
    return [] if places.root == Path("/") else ["--root", str(places.root)]
