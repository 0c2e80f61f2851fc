"""The settings that hold: the local file, with the sections laid over it that the hub wants and the device has accepted."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agent.config import ELSEWHERE
from agent.errors import AlmenaError, SettingsError
from agent.remote_settings import REMOTE
from agent.settings import Settings, dotted, load, parse
from agent.yaml_file import YamlFile
from engines.files import replacing

MODE = 0o640
"""Of the file: the uplink writes it, the vision process reads it by its group, nobody else."""
FOLDER_MODE = 0o2750
HARMLESS = ("health", "timeout_s")
"""What of a camera with an address has nothing to do with who gets its password."""
FOLDER_PACE = ("watch", "settle_s", "period_s")
"""What of a folder has nothing to do with what becomes of its pictures."""


class RemoteError(AlmenaError):
    """What the hub wants cannot be kept, or read back."""


@dataclass(frozen=True)
class Wish:
    """Sections that the hub wants, under their revision."""

    revision: int
    state: Mapping[str, Any]

    @property
    def mark(self) -> str:
        """The same for the same wish, in every process."""
        return hashlib.sha256(json.dumps([self.revision, self.state], sort_keys=True).encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """For `of_json`."""
        return {"revision": self.revision, "state": dict(self.state)}

    @classmethod
    def of_json(cls, value: Any) -> Wish:
        """Raises ValueError for what is no wish."""
        if isinstance(value, dict) and isinstance(value.get("revision"), int) and isinstance(value.get("state"), dict):
            return cls(value["revision"], value["state"])
        raise ValueError("there is no revision and state")


@dataclass(frozen=True)
class Effective:
    """`settings`: those that hold; `wish`: what of the hub's is in them; `problem`: why what was accepted once does not hold now."""

    settings: Settings
    wish: Wish | None = None
    problem: str = ""

    def summary(self) -> dict[str, Any]:
        """`Settings.summary`, with the revision of the hub's settings, their mark, and the problem."""
        revision, mark = (self.wish.revision, self.wish.mark) if self.wish else (None, "")
        return {**self.settings.summary(), "revision": revision, "wish": mark, "problem": self.problem}


def effective(path: Path) -> Effective:
    """What holds on this device: the file at `path` with the accepted sections over it, or the file alone where they fit it no more.

    Raises SettingsError for the file itself.
    """
    local = load(path)
    if not local.remote.settings:
        return Effective(local)
    try:
        wish = kept(local.state_dir)
        return Effective(_laid_over(path, local, wish), wish) if wish else Effective(local)
    except RemoteError as error:
        return Effective(local, problem=f"{error}; the settings file holds alone")
    except SettingsError as error:
        why = "; ".join(str(error).splitlines())
        return Effective(local, problem=f"what the hub wanted does not fit this device any more; the settings file holds alone: {why}")


def laid_over(path: Path, wish: Wish) -> Settings:
    """The file at `path`, with each section of `wish` in the place of its own. Raises SettingsError with a line for each thing that is
    wrong, or that the file does not allow."""
    local = load(path)
    if not local.remote.settings:
        raise SettingsError("this device takes no settings from its hub: remote.settings is false in its settings file")
    return _laid_over(path, local, wish)


def _laid_over(path: Path, local: Settings, wish: Wish) -> Settings:
    """No file is looked at before it is known to be allowed."""
    wrong = [f"{name}: this section is decided on the device" for name in wish.state if name not in REMOTE]
    raw, base = {**(YamlFile(path).raw or {}), **wish.state}, path.resolve().parent
    for context in (dict(ELSEWHERE), {"base": base}):
        if not wrong:
            settings, problems = parse(raw, context)
            wrong = [f"{dotted(place)}{message}" for place, message in problems]
        if not wrong and settings is not None:
            wrong = [f"{place}: {why}" for place, why in refused(local, settings, base)]
    if wrong or settings is None:
        raise SettingsError("\n".join(wrong))
    return settings


def secrets(settings: Settings) -> list[str]:
    """Places of passwords, which do not travel over the broker."""
    return [
        f"streams[{number}].source"
        for number, stream in enumerate(settings.streams)
        if getattr(stream.source, "password", None) is not None
    ]


def refused(local: Settings, wanted: Settings, base: Path) -> Iterator[tuple[str, str]]:
    """What of the wanted sections `local`, the file alone, does not allow: where, and why. Relative paths count from `base`."""
    for place in secrets(wanted):
        yield place, "a password does not travel over the broker; put it on the device as password_file"
    allowed = {os.path.realpath(file) for _, file in _files(local, base)}
    folders = [os.path.realpath(folder) for folder in local.remote.folders]
    for place, file in _files(wanted, base):
        real = os.path.realpath(file)
        if real not in allowed and not any(Path(real).is_relative_to(folder) for folder in folders):
            yield place, f"{file} is neither named in the device's settings file nor in one of its remote.folders"
    own = [stream.source for stream in local.streams]
    for number, stream in enumerate(wanted.streams):
        for name, why in _refused_source(own, stream.source, local.remote.pipelines, base):
            yield f"streams[{number}].source.{name}", why
    if wanted.serving.templates and not local.serving.templates:
        yield "serving.templates", "face templates are served only where the device's settings file says so"


def _refused_source(own: list[Any], source: Any, pipelines: bool, base: Path) -> Iterator[tuple[str, str]]:
    """`own`: the sources of the device's settings file."""
    pipeline = getattr(source, "pipeline", None)
    if pipeline is not None and not pipelines and pipeline not in [getattr(one, "pipeline", None) for one in own]:
        yield "pipeline", "a pipeline that is not in the device's settings file takes remote.pipelines there"
    if getattr(source, "password_file", None) is not None and not any(_alike(source, one, base, HARMLESS) for one in own):
        yield "password_file", "a password goes to no other address, and with no other TLS, than the device's settings file says"
    if getattr(source, "after", "") == "delete" and not any(_alike(source, one, base, FOLDER_PACE) for one in own):
        yield "after", "pictures are deleted only where the device's settings file says so"


def kept(state_dir: Path) -> Wish | None:
    """The wish that was accepted last. Raises RemoteError where it cannot be read."""
    file = _file(state_dir)
    try:
        said = json.loads(file.read_bytes())
        return None if said is None else Wish.of_json(said)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RemoteError(f"{file}, what the hub wants, cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RemoteError(f"{file} is damaged: remove it, and the hub's settings come again") from error


def keep(state_dir: Path, wish: Wish | None) -> None:
    """From now on `wish` holds, also after a power failure; None: the file alone. Raises RemoteError, and then nothing changes."""
    file = _file(state_dir)
    try:
        if not file.parent.is_dir():
            file.parent.mkdir(parents=True)
            file.parent.chmod(FOLDER_MODE)
        with replacing(file) as part:
            part.touch(MODE)
            part.chmod(MODE)
            part.write_text(json.dumps(wish and wish.as_json()))
    except OSError as error:
        raise RemoteError(f"{file} cannot be written: {error.strerror}") from error


def _file(state_dir: Path) -> Path:
    return state_dir / "remote" / "settings.json"


def _alike(one: Any, other: Any, base: Path, apart_from: tuple[str, ...]) -> bool:
    names = [name for name in type(one).model_fields if name not in apart_from]
    return type(one) is type(other) and all(_plain(getattr(one, name), base) == _plain(getattr(other, name), base) for name in names)


def _plain(value: Any, base: Path) -> Any:
    return os.path.realpath(_at(value, base)) if isinstance(value, Path) else value


def _at(path: Path, base: Path) -> Path:
    try:
        return base / path.expanduser()
    except RuntimeError:  # there is no such user
        return base / path


def _files(settings: Settings, base: Path) -> Iterator[tuple[str, Path]]:
    """Every file, folder and model card's file that the sections which a hub may want name, and where."""
    for name in REMOTE:
        for place, value in _values(getattr(settings, name), name):
            if isinstance(value, str) and _names_a_file(place, value):
                value = Path(value)
            if isinstance(value, Path) and not re.fullmatch("/dev/video[0-9]+", str(value)):
                yield place, _at(value, base)


def _names_a_file(place: str, value: str) -> bool:
    """A camera's device file, or a model card's."""
    if place.endswith(".device"):
        return "/" in value
    return value.endswith((".yaml", ".yml")) and (place.startswith("serving") or ".tasks[" in place)


def _values(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _values(getattr(value, name), f"{place}.{name}")
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _values(one, f"{place}[{number}]")
    else:
        yield place, value
