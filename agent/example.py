"""The annotated settings file, made from the settings models: `python -m agent.example --write almena.example.yaml`.

`##` begins an explanation; a line that begins with `# ` is a setting that is not set: take the two characters away to set it.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from agent.config import Config
from agent.registry import SOURCES, TASKS, config_of
from agent.settings import DAY, MEBIBYTE, Settings

HEAD = """\
Settings of Almena. Copy this file to almena.yaml and check it with `almena check --config almena.yaml`.
Values that are set here are the defaults, except for `streams`, where there is none.
A line that begins with a single # is a setting that is not set; take `# ` away to set it.
Relative paths count from the folder of this file. An unknown key is an error.
Made by `python -m agent.example` from the settings models: do not edit this copy.\
"""
FIRST, FIRST_TASK = "v4l2", "faces"
WIDTH = 110

EXAMPLES: dict[str, Any] = {
    "faces.identify": 0.48,
    "faces.score": 0.5,
    "folder.path": "pictures",
    "gallery.key_file": "/etc/almena/gallery.key",
    "gstreamer.pipeline": "v4l2src device=/dev/video0 ! image/jpeg,width=1280,height=720 ! jpegdec",
    "mjpeg.url": "http://camera.local/video.mjpg",
    "rtsp.url": "rtsp://camera.local/stream",
    "video.path": "clip.mp4",
    "ca_file": "ca.pem",
    "cert_file": "device.pem",
    "key_file": "device.key",
    "models_dir": "/var/lib/almena/models",
    "password": "secret",
    "password_file": "mqtt.password",
    "password_hash": "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$c2VjcmV0",
    "username": "almena",
}
"""Stand-ins for fields without a default, by `<section or plug-in>.<field>` or by field."""

CHOSEN = ("gstreamer.pipeline",)
"""Fields that are shown as set although they may be absent: one of several is required."""


def example() -> str:
    """The whole file."""
    lines = [f"## {line}" for line in HEAD.splitlines()]
    for name, field in Settings.model_fields.items():
        lines.append("")
        lines += _streams() if name == "streams" else _field(name, field, _default(field), "")
    return "\n".join(lines) + "\n"


def _streams() -> Iterator[str]:
    yield "## Cameras and other sources, and what is done with their frames: one entry for each."
    yield "streams:"
    yield from _stream(FIRST, ())
    shown = tuple(kind for field in _config(SOURCES, FIRST).model_fields.values() if (kind := _model_of(field)))
    for name in SOURCES:
        if name != FIRST:
            yield from _commented(["", *_stream(name, shown)])


def _stream(source: str, shown: tuple[type[BaseModel], ...]) -> list[str]:
    """An entry of `streams`. Sections in `shown` are left out: they stand further up in the file."""
    about = [f"## {_summary(_config(SOURCES, source))}"]
    lines = [f"- name: {source}", "  source:", *_indented(_plugin(SOURCES, source, shown), 4), "  tasks:"]
    own = _config(SOURCES, source).goes_with
    first, *rest = [f"type: {FIRST_TASK}"] if shown and not own else _plugin(TASKS, own or FIRST_TASK, ())
    lines += [f"    - {first}", *_indented(rest, 6)]
    for name in TASKS if not shown else ():
        if name != FIRST_TASK and not _config(TASKS, name).goes_with:
            first, *rest = _plugin(TASKS, name, ())
            lines += [f"    ## {_summary(_config(TASKS, name))}", *_indented(_commented([f"- {first}", *_indented(rest, 2)]), 4)]
    return list(_indented(about + lines, 2))


def _plugin(table: dict[str, str], name: str, shown: tuple[type[BaseModel], ...]) -> Iterator[str]:
    yield f"type: {name}"
    for key, field in _config(table, name).model_fields.items():
        if _model_of(field) in shown:
            yield f"## {key}: as above"
        elif key != "type":
            yield from _field(key, field, _default(field), name)


def _config(table: dict[str, str], name: str) -> type[Config]:
    kind: type[Config] = config_of(table, name, "plug-in")
    return kind


def _field(name: str, field: FieldInfo, value: Any, owner: str) -> Iterator[str]:
    kind = _model_of(field)
    yield from _explained(_about(field, kind))
    if kind is not None and get_origin(field.annotation) is tuple:
        inner = (line for key, part in kind.model_fields.items() for line in _field(key, part, _default(part), name))
        lines = [f"{name}:", "  -", *_indented(inner, 4)]
    elif kind is not None:
        default = None if value in (None, PydanticUndefined) else value
        inner = (line for key, part in kind.model_fields.items() for line in _field(key, part, _default(part, default, key), name))
        lines = [f"{name}:", *_indented(inner, 2)]
    elif value in (None, PydanticUndefined):
        lines = [f"{name}: {_scalar(_stand_in(name, field, owner))}"]
    else:
        lines = [f"{name}: {_scalar(value)}{_in_words(name, value)}"]
    yield from _commented(lines) if (value is None or (kind is not None and value == ())) and f"{owner}.{name}" not in CHOSEN else lines


def _default(field: FieldInfo, owner: Any = None, name: str = "") -> Any:
    """The value in the default of the owning section, or else the field's own; PydanticUndefined where one must be given."""
    return field.get_default(call_default_factory=True) if owner is None else getattr(owner, name)


def _about(field: FieldInfo, kind: type[BaseModel] | None) -> str:
    text = field.description or (_summary(kind) if kind else "")
    return " ".join(part for part in (text, _choices(field, text), _limits(field)) if part)


def _summary(kind: type[BaseModel]) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def _choices(field: FieldInfo, text: str) -> str:
    found = [
        str(choice) for part in (field.annotation, *get_args(field.annotation)) if get_origin(part) is Literal for choice in get_args(part)
    ]
    return f"One of: {', '.join(found)}." if any(f"`{choice}`" not in text for choice in found) else ""


def _limits(field: FieldInfo) -> str:
    bounds = {
        kind: value for item in field.metadata for kind in ("ge", "gt", "le", "lt") if (value := getattr(item, kind, None)) is not None
    }
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if high is not None:
        top = f"{'less than' if 'lt' in bounds else 'up to'} {high:g}"
        if low is None:
            return f"At most {high:g}." if "le" in bounds else f"{top.capitalize()}."
        if "gt" in bounds or "lt" in bounds:
            return f"{'More than' if 'gt' in bounds else 'At least'} {low:g}, {top}."
        return f"{low:g} to {high:g}."
    if low is None or low == 0:
        return "More than 0." if "gt" in bounds else ""
    return f"{'More than' if 'gt' in bounds else 'At least'} {low}."


def _in_words(name: str, value: Any) -> str:
    """Large numbers of bytes and seconds, readable, as a comment behind the value."""
    if name.endswith("_bytes") and value >= MEBIBYTE:
        return f"  # {value / MEBIBYTE:g} MiB"
    if name.endswith("_s") and value >= DAY:
        return f"  # {value / DAY:g} days"
    return ""


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    for part in (field.annotation, *get_args(field.annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _stand_in(name: str, field: FieldInfo, owner: str) -> Any:
    """An example's value. Raises KeyError for a field that EXAMPLES has to name."""
    if field.examples:
        return field.examples[0]
    key = f"{owner}.{name}"
    return EXAMPLES[key] if key in EXAMPLES else EXAMPLES[name]


def _scalar(value: Any) -> str:
    plain = str(value) if isinstance(value, Path) else value
    if isinstance(plain, (tuple, list)):
        return f"[{', '.join(_scalar(item) for item in plain)}]"
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("\n").removesuffix("\n...")


def _explained(text: str) -> Iterator[str]:
    return (f"## {line}" for line in textwrap.wrap(text, WIDTH))


def _indented(lines: Iterable[str], by: int) -> Iterator[str]:
    return (f"{' ' * by}{line}" if line else "" for line in lines)


def _commented(lines: Iterable[str]) -> Iterator[str]:
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
