"""Sections and keys of a settings file written by the program itself; what else stands there stays as it is, comments included."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from agent import settings
from agent.errors import SettingsError, UsageError
from agent.yaml_file import YamlFile
from engines.files import scratch

PLACES = (Path("almena.yaml"), Path("/etc/almena/almena.yaml"))
"""Where a settings file is looked for that is not named: here, and where the service has it."""


def located() -> Path | None:
    """The settings file of this folder or, where there is none, of the service."""
    return next(filter(os.path.isfile, PLACES), None)


def to_be_changed(given: Path | None) -> Path:
    """The file that is named, or `located`, or the one to be made here.

    Raises UsageError where there is a service whose settings this user may not see.
    """
    if found := given or located():
        return found
    folder = PLACES[-1].parent
    if folder.is_dir() and not os.access(folder, os.X_OK):
        raise UsageError(f"Almena is a service here, and {PLACES[-1]} is not for this user: use sudo, or name a settings file (--config)")
    return PLACES[0]


def write_sections(path: Path, sections: Mapping[str, Any], *, rehearse: bool = False) -> None:
    """Replace or add whole sections. The file is replaced at once, by one that is valid; a new one is for the group of its folder, too.

    `rehearse`: everything but the last step, so that nothing changes. Raises SettingsError, OSError; then the file is as it was.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for name, content in sections.items():
        text = _with_key(path, text, (name,), content)
    _replace(path, text, settings.load, rehearse=rehearse)


def write_key(path: Path, section: str, name: str, content: Any, check: Callable[[Path], object]) -> None:
    """Replace or add one key of a section, and leave the section's comments. `check` raises for a file that is not valid.

    Raises what `check` does, SettingsError, OSError; then the file is as it was.
    """
    _replace(path, _with_key(path, path.read_text(encoding="utf-8"), (section, name), content), check)


def _replace(path: Path, text: str, check: Callable[[Path], object], *, rehearse: bool = False) -> None:
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o640
    with scratch(path) as part:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            with contextlib.suppress(PermissionError):  # who is neither the owner nor root keeps the file as his own
                there = path.stat() if path.exists() else path.resolve().parent.stat()
                os.fchown(file.fileno(), there.st_uid if path.exists() else -1, there.st_gid)  # the folder's owner may put a link there
            file.flush()
            os.fsync(file.fileno())
        try:
            check(part)
        except SettingsError as error:
            raise SettingsError(str(error).replace(str(part), str(path))) from error
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "it is write-protected")
        if any(mount.mountpoint == str(path.resolve()) for mount in psutil.disk_partitions(all=True)):
            raise OSError(errno.EBUSY, "it is mounted by itself, which cannot be replaced: mount its folder instead")
        if not rehearse:
            part.replace(path)


def _with_key(path: Path, text: str, place: tuple[str, ...], content: Any) -> str:
    """`text` with what stands at `place` replaced, or added: a section at the end, a key of a section as its first one."""
    *outer, name = place
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for part in outer:
        root = next(value for key, value in root.value if key.value == part)
        if root.flow_style:
            return _with_key(path, text, (part,), yaml.safe_load(text)[part] | {name: content})
    column = root.start_mark.column if outer else 0
    dumped = yaml.safe_dump({name: content}, sort_keys=False, allow_unicode=True).splitlines()
    written, lines = [" " * column + line for line in dumped], text.splitlines()
    if root is None:
        return "\n".join([*lines, *written, ""])
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise SettingsError(f"{path}:1: sections cannot be written into a file of this form; write one section a line, as `device:`")
    for key, value in root.value:
        if key.value == name:
            first, last = key.start_mark.line, value.end_mark.line + (value.end_mark.column > 0)
            while last > first + 1 and not lines[last - 1].startswith((" ", "-")):  # comments that belong to what follows
                last -= 1
            return "\n".join([*lines[:first], *written, *lines[last:], ""])
    there = root.start_mark.line if outer else len(lines)
    return "\n".join([*lines[:there], *written, *lines[there:], ""])


def raw_section(path: Path, name: str) -> dict[str, Any]:
    """A section as it stands in the file; empty where there is none. Raises SettingsError for what is no YAML."""
    raw = YamlFile(path).raw if path.exists() else None
    section = raw.get(name) if isinstance(raw, dict) else None
    return dict(section) if isinstance(section, dict) else {}
