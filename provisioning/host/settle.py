"""Files, accounts and folders as a release wants them: looked at each time, and put right where they differ."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from stat import S_IMODE, S_ISDIR, S_ISREG

from provisioning.host import service
from provisioning.host.places import GROUP, Places, lines_of, mode
from provisioning.host.plan import HostError, Plan, run
from provisioning.host.written import remove, write

KEY_MODE = 0o600
UDEV = Path("/run/udev/control")


def settle(places: Places, texts: Mapping[str, str], plan: Plan, before: Mapping[str, str] | None = None) -> None:
    """Write, make and mend what differs. What only the release `before` had is removed, and what the Debian package brings is not written
    a second time. Raises HostError."""
    files = places.written(texts)
    require_no_links(places, texts)
    brought = {path for path, text in files.items() if places.packaged and _as_it_should_be(places.brought(path), text)}
    old = places.written(before or {}).keys() - files.keys()
    stopped = sorted(path.name for path in old if path.parent == places.units and places.there(path))
    plan.step(f"stop {', '.join(stopped)}", bool(stopped), partial(service.stop, places, stopped))
    gone = [path for path in sorted(old | brought) if path.exists()]
    for path in gone:
        plan.step(f"remove {path}", True, partial(remove, path))
    wrong = [path for path, text in files.items() if path not in brought and not _as_it_should_be(path, text)]
    for path in wrong:
        plan.step(f"write {path}", True, partial(write, path, files[path], mode(path)))
    rules = any(path.suffix == ".rules" for path in (*gone, *wrong))
    plan.step("let udev use its rules", rules and places.root == Path("/") and UDEV.exists(), _udev)
    accounts, folders, owners = _accounts(places, texts), _folders(places, texts), _strays(places, texts)
    below = f"--root={places.root}"
    make = partial(run, ["systemd-sysusers", below, places.accounts.name])
    plan.step(f"make the accounts {', '.join(accounts)}", bool(accounts), make)
    put = partial(run, ["systemd-tmpfiles", below, "--create", places.folders.name])
    plan.step(f"make, or give mode and owner to, {', '.join(map(str, folders))}", bool(folders), put)
    plan.step(f"give {places.state} to its accounts", bool(owners), partial(_give_back, places, texts))


def close(key: Path, plan: Plan) -> None:
    """Let a key be root's alone."""
    if not key.exists():
        return
    found = key.stat()
    had = (S_IMODE(found.st_mode), found.st_uid, found.st_gid)
    what = f"close {key}, which had mode {had[0]:04o} and owner {had[1]}"
    plan.step(what, had != (KEY_MODE, 0, 0), lambda: write(key, key.read_bytes(), KEY_MODE, 0))


def require_no_links(places: Places, texts: Mapping[str, str]) -> None:
    """Raises HostError where a link is in the place of something that root is about to write, or to hand over."""
    keys = places.settings_dir / "keys"
    own = [places.prefix, places.releases, *(keys.glob("*") if keys.is_dir() else ())]
    links = [str(path) for path in (*own, *_wanted(places, texts)) if path.is_symlink()]
    if links:
        advice = "put the thing itself there (a disk: mount it there, or bind a folder of it)"
        raise HostError(f"{', '.join(links)}: a link, which root does not follow; {advice}")


def named(places: Places, table: str, name: str) -> bool:
    """Whether /etc/passwd or /etc/group has it, in the image."""
    return any(line[0] == name for line in _table(places, table))


def number(places: Places, table: str, name: str) -> int:
    """Of an account or a group, in the image. Raises HostError without it."""
    found = next((int(line[2]) for line in _table(places, table) if line[0] == name), None)
    if found is None:
        raise HostError(f"{places.at(f'/etc/{table}')} has no {name}: run `sudo almena install`")
    return found


def _table(places: Places, name: str) -> list[list[str]]:
    file = places.at(f"/etc/{name}")
    lines = file.read_text(errors="surrogateescape").split("\n") if file.is_file() else []
    return [fields for line in lines if len(fields := line.split(":")) > 3]


def _udev() -> None:
    run(["udevadm", "control", "--reload"])
    run(["udevadm", "trigger", "--action=change"])


def _as_it_should_be(path: Path, text: str) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    found = path.stat()
    return (path.read_text(errors="replace"), S_IMODE(found.st_mode), found.st_uid) == (text, mode(path), 0)


def _accounts(places: Places, texts: Mapping[str, str]) -> list[str]:
    """Those of almena.sysusers that are missing, and memberships that are."""
    missing = []
    members = {line[0]: line[3].split(",") for line in _table(places, "group")}
    for kind, name, *rest in map(shlex.split, lines_of(texts, ".sysusers")):
        if kind == "u" and not named(places, "passwd", name):
            missing.append(name)
        elif kind == "m" and name not in missing and name not in members.get(rest[0], []):
            missing.append(f"{name} in {rest[0]}")
    return missing


def _wanted(places: Places, texts: Mapping[str, str]) -> dict[Path, tuple[str, int, str, str]]:
    """What almena.tmpfiles says of each path: kind, mode, owner, group."""
    lines = [line.split() for line in lines_of(texts, ".tmpfiles")]
    return {places.at(path): (kind, int(bits, 8), user, group) for kind, path, bits, user, group, *_ in lines}


def _folders(places: Places, texts: Mapping[str, str]) -> list[Path]:
    """Those that are missing, or have another mode or owner."""
    wrong = []
    for path, (kind, bits, user, group) in _wanted(places, texts).items():
        if not path.exists():
            wrong += [path] if kind == "d" else []
            continue
        found = path.stat()
        if not (S_ISDIR if kind == "d" else S_ISREG)(found.st_mode):
            raise HostError(f"{path} is neither made by an installation nor usable by it: move it away")
        owner = _owner(places, user, group)
        if (S_IMODE(found.st_mode), found.st_uid, found.st_gid) != (bits, *owner):
            wrong.append(path)
    return wrong


def _owner(places: Places, user: str, group: str) -> tuple[int, int]:
    """Numbers; -1 of those that are not made yet."""
    known = [("passwd", user), ("group", group)]
    uid, gid = (number(places, table, name) if named(places, table, name) else 0 if name == "root" else -1 for table, name in known)
    return uid, gid


def _owned(places: Places, texts: Mapping[str, str]) -> dict[Path, tuple[int, int]]:
    """The folders of data that are one process's, as far as they are there."""
    wanted = _wanted(places, texts).items()
    return {path: _owner(places, user, group) for path, (_, _, user, group) in wanted if path.parent == places.state and path.is_dir()}


def _strays(places: Places, texts: Mapping[str, str]) -> list[Path]:
    """Folders of data that outlived their accounts, or came from another machine."""
    return [folder for folder, (uid, _) in _owned(places, texts).items() if folder.stat().st_uid != uid]


def _give_back(places: Places, texts: Mapping[str, str]) -> None:
    """To the group all that it may read or write by its mode, and to each process what is its own."""
    run(["chown", "--recursive", f"0:{number(places, 'group', GROUP)}", str(places.state)])
    for folder, (uid, gid) in _owned(places, texts).items():
        run(["chown", "--recursive", f"{uid}:{gid}", str(folder)])
