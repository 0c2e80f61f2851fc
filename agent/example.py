"""The annotated settings file, made from the settings models: `python -m agent.example --write almena.example.yaml`.

`##` begins an explanation; a line that begins with `# ` is a setting that is not set: take the two characters away to set it.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from agent.registry import SOURCES, TASKS, resolve
from agent.settings import Settings

HEAD = """\
Settings of Almena. Copy this file to almena.yaml and check it with `almena check --config almena.yaml`.
Values that are set here are the defaults, except for `streams`, where there is none.
A line that begins with a single # is a setting that is not set; take `# ` away to set it.
Relative paths count from the folder of this file. An unknown key is an error.
Made by `python -m agent.example` from the settings models: do not edit this copy.\
"""
FIRST = "v4l2"
WIDTH = 110

EXAMPLES: dict[str, Any] = {
    "models_dir": "/var/lib/almena/models",
    "username": "almena",
    "password": "secret",
    "password_file": "mqtt.password",
    "ca_file": "ca.pem",
    "cert_file": "device.pem",
    "key_file": "device.key",
    "password_hash": "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$c2VjcmV0",
    "url": "rtsp://camera.local/stream",
    "path": "clip.mp4",
    "folder": "pictures",
    "pipeline": "videotestsrc ! videoconvert ! video/x-raw,format=BGR ! appsink",
}
"""Stand-ins for fields that have no default and bring no example of their own."""


def example() -> str:
    """The whole file."""
    lines = [f"## {line}" for line in HEAD.splitlines()]
    for name, field in Settings.model_fields.items():
        lines.append("")
        lines += _streams(field) if name == "streams" else _field(name, field, field.get_default(call_default_factory=True))
    return "\n".join(lines) + "\n"


def plugin_example(table: dict[str, str], name: str, what: str) -> dict[str, Any]:
    """The least settings of a plug-in: its type and what it requires."""
    model: type[BaseModel] = resolve(table, name, what).Config
    required = {key: _stand_in(key, field) for key, field in model.model_fields.items() if field.is_required()}
    return {**required, "type": name}


def _streams(field: FieldInfo) -> Iterator[str]:
    yield "## Cameras and other sources, and what is done with their frames. One entry for each."
    yield "streams:"
    yield from _stream(FIRST)
    for name in SOURCES:
        if name != FIRST:
            yield from _commented(["", *_stream(name)])


def _stream(source: str) -> list[str]:
    lines = [f"- name: {source}", "  source:", *_indented(_plugin(SOURCES, source, "source"), 4), "  tasks:"]
    for name in TASKS:
        if source == FIRST:
            first, *rest = _plugin(TASKS, name, "task")
            lines += [f"    - {first}", *_indented(rest, 6)]
        else:
            lines.append(f"    - type: {name}")
    return list(_indented(lines, 2))


def _plugin(table: dict[str, str], name: str, what: str) -> Iterator[str]:
    model: type[BaseModel] = resolve(table, name, what).Config
    yield f"type: {name}"
    for key, field in model.model_fields.items():
        if key != "type":
            yield from _field(key, field, field.get_default(call_default_factory=True))


def _field(name: str, field: FieldInfo, value: Any) -> Iterator[str]:
    kind = _model_of(field)
    yield from _explained(_about(field, kind))
    if kind is None:
        unset = value is PydanticUndefined and not field.is_required()
        line = f"{name}: {_scalar(_stand_in(name, field) if value in (None, PydanticUndefined) else value)}"
        yield from _commented([line]) if value is None or unset else [line]
        return
    lines = [f"{name}:", *_indented(_section(kind, value), 2)]
    yield from _commented(lines) if value is None else lines


def _section(model: type[BaseModel], default: BaseModel | None) -> Iterator[str]:
    for name, field in model.model_fields.items():
        value = field.get_default(call_default_factory=True) if default is None else getattr(default, name)
        yield from _field(name, field, value)


def _about(field: FieldInfo, kind: type[BaseModel] | None) -> str:
    text = field.description or ((kind.__doc__ or "").strip().partition("\n")[0] if kind else "")
    return " ".join(part for part in (text, _limits(field)) if part)


def _limits(field: FieldInfo) -> str:
    for part in (field.annotation, *get_args(field.annotation)):
        if get_origin(part) is Literal and len(get_args(part)) > 1:
            return f"One of: {', '.join(str(choice) for choice in get_args(part))}."
    bounds = {
        kind: getattr(item, kind) for item in field.metadata for kind in ("ge", "gt", "le", "lt") if getattr(item, kind, None) is not None
    }
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    text = ", ".join(f"{words[kind]} {value:g}" if isinstance(value, float) else f"{words[kind]} {value}" for kind, value in bounds.items())
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    for part in (field.annotation, *get_args(field.annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _stand_in(name: str, field: FieldInfo) -> Any:
    if field.examples:
        return field.examples[0]
    if name in EXAMPLES:
        return EXAMPLES[name]
    union = get_origin(field.annotation) in (Union, UnionType)
    kinds = [part for part in (get_args(field.annotation) if union else (field.annotation,)) if part is not NoneType]
    return {int: 1, float: 1.0, bool: True}.get(kinds[0] if isinstance(kinds[0], type) else str, "text")


def _scalar(value: Any) -> str:
    plain = value.get_secret_value() if isinstance(value, SecretStr) else str(value) if isinstance(value, Path) else value
    if isinstance(plain, (tuple, list)):
        return f"[{', '.join(_scalar(item) for item in plain)}]"
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def _explained(text: str) -> Iterator[str]:
    return (f"## {line}" for line in textwrap.wrap(text, WIDTH))


def _indented(lines: Any, by: int) -> Iterator[str]:
    return (f"{' ' * by}{line}" if line else "" for line in lines)


def _commented(lines: Any) -> Iterator[str]:
    return (f"# {line}" if line else "" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the file, or write it."""
    parser = argparse.ArgumentParser(prog="python -m agent.example", description="Make the annotated settings file.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write it there instead of printing it")
    options = parser.parse_args(arguments)
    if options.write:
        options.write.write_text(example(), encoding="utf-8")
    else:
        sys.stdout.write(example())


if __name__ == "__main__":
    main()
