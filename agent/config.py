"""The base of every settings model, here and in plug-ins."""

from __future__ import annotations

import ipaddress
import os
import re
import unicodedata
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Names under which only this machine is reached."""


class Config(BaseModel):
    """Frozen settings in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    goes_with: ClassVar[str] = ""
    """Of a source: the only type of task that takes its frames; of a task: the only type of source that it takes frames of."""


def one_line(value: str) -> str:
    """The same text, where it is not empty and has no line break or other control character. Raises ValueError."""
    if not value:
        raise ValueError("must not be empty; leave the line out where nothing is meant")
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in value):
        raise ValueError(f"must be one line without control characters, not {value!r}")
    return value


def matching(pattern: str, rule: str) -> AfterValidator:
    """Takes text that is wholly of the form `pattern` (of `re`); `rule` says in words what it must do."""

    def match(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"must {rule}")
        return value

    return AfterValidator(match)


def _host(value: str) -> str:
    one_line(value)
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(r"[\w.-]{1,253}", value):
            raise ValueError(f"must be a host name or an address alone, without scheme, brackets, port or path, not {value!r}") from None
    return value


def _path(value: object) -> object:
    return one_line(value) if isinstance(value, str) else value


ELSEWHERE = {"elsewhere": True}
"""Context of a validation on another machine than the one that the settings are for: its files cannot be looked at."""


def _elsewhere(info: ValidationInfo) -> bool:
    return bool((info.context or {}).get("elsewhere"))


def _beside_settings(path: Path, info: ValidationInfo) -> Path:
    if _elsewhere(info):
        return path
    base: Path = (info.context or {}).get("base", Path.cwd())
    try:
        return base / path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no user {path.parts[0]} here; a folder of that name is ./{path.parts[0]}") from error


def _existing(path: Path, info: ValidationInfo) -> Path:
    if _elsewhere(info):
        return path
    try:
        there = path.is_file()
    except PermissionError:  # in a folder of another process, which will need it and say so; the settings are everybody's
        return path
    if not there:
        raise ValueError(f"there is no file {path}")
    return path


def _not_below_a_file(path: Path, info: ValidationInfo) -> Path:
    if _elsewhere(info):
        return path
    there = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    if not there.is_dir():
        raise ValueError(f"{there} is a file, where a folder must be: move it away, or name another folder")
    return path


def _card_beside_settings(name: str, info: ValidationInfo) -> str:
    one_line(name)
    return str(_beside_settings(Path(name), info)) if name.endswith((".yaml", ".yml")) else name


def _password_hash(value: str) -> str:
    if not _matchable(value):
        raise ValueError("is no argon2id hash, so that no password would ever match: take what `almena doctor --hash-password` prints")
    return value


def _matchable(value: str) -> bool:
    """Whether it is an argon2id hash within the bounds of RFC 9106, clause 3.1."""
    from argon2 import Type, extract_parameters  # only where there is one: it takes 30 ms to load

    try:
        found = extract_parameters(value)
        whole = all(b64encode(b64decode(f"{part}===")).rstrip(b"=") == part.encode() for part in value.split("$")[-2:])
    except ValueError:  # argon2's InvalidHashError is one
        return False
    cost = found.time_cost >= 1 and found.memory_cost >= 8 * found.parallelism >= 8
    return found.type is Type.ID and whole and cost and found.salt_len >= 8 and found.hash_len >= 4


Line = Annotated[str, AfterValidator(one_line)]
"""Text of one line."""

HostName = Annotated[str, AfterValidator(_host)]
"""The name or the address of a host, IPv4 or IPv6."""

AnyPath = Annotated[Path, BeforeValidator(_path), AfterValidator(_beside_settings)]
"""A path; a relative one counts from the folder of the settings file."""

Folder = Annotated[AnyPath, AfterValidator(_not_below_a_file)]
"""The same for a folder, which is there or can be made."""

ExistingFile = Annotated[AnyPath, AfterValidator(_existing)]
"""The same, and there must be a file when the settings are read."""

CardName = Annotated[str, AfterValidator(_card_beside_settings)]
"""A model card's name, or the path of its file; a relative path counts from the folder of the settings file."""

PasswordHash = Annotated[str, AfterValidator(_password_hash)]
"""A password's argon2id hash, in the form that holds its parameters and salt."""
