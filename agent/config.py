"""The base of every settings model, here and in plug-ins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo


class Config(BaseModel):
    """Frozen settings in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    goes_with: ClassVar[str] = ""
    """Of a source: the only type of task that takes its frames; of a task: the only type of source that it takes frames of."""


def _beside_settings(path: Path, info: ValidationInfo) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot have the character NUL in it")
    base: Path = (info.context or {}).get("base", Path.cwd())
    try:
        return base / path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no user {path.parts[0]} here; a folder of that name is ./{path.parts[0]}") from error


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    return path


def _not_below_a_file(path: Path) -> Path:
    there = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
    if not there.is_dir():
        raise ValueError(f"{there} is a file, where a folder must be: move it away, or name another folder")
    return path


def _card_beside_settings(name: str, info: ValidationInfo) -> str:
    return str(_beside_settings(Path(name), info)) if name.endswith((".yaml", ".yml")) else name


AnyPath = Annotated[Path, AfterValidator(_beside_settings)]
"""A path; a relative one counts from the folder of the settings file."""

Folder = Annotated[Path, AfterValidator(_beside_settings), AfterValidator(_not_below_a_file)]
"""The same for a folder, which is there or can be made."""

ExistingFile = Annotated[Path, AfterValidator(_beside_settings), AfterValidator(_existing)]
"""The same, and there must be a file when the settings are read."""

CardName = Annotated[str, AfterValidator(_card_beside_settings)]
"""A model card's name, or the path of its file; a relative path counts from the folder of the settings file."""
