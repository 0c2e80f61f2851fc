"""A YAML file of people's own: its values, and where in it each of them stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from agent.errors import SettingsError

Place = tuple[Any, ...]
"""Keys and indices from the top down."""


class YamlFile:
    """`raw`: the values; `repeated`: the places of keys that are given twice. Raises SettingsError, with the line, for what is no YAML."""

    def __init__(self, path: Path) -> None:
        text = _text(path)
        try:
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.raw: Any = _values(path, self._root)
            self.repeated = _repeated_keys(self._root, (), set())
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, int(error.position)) + 1
            raise SettingsError(f"{path}:{line}: not valid YAML: a character that must not be there, {chr(error.character)!a}") from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line_of = f":{mark.line + 1}" if mark else ""
            raise SettingsError(f"{path}{line_of}: not valid YAML: {getattr(error, 'problem', None) or error}") from error
        except RecursionError as error:
            raise SettingsError(f"{path}: nested too deeply, or an anchor refers to itself; write the section out instead") from error

    def line(self, place: Place) -> int:
        """The line of the innermost part of `place` that the file has."""
        node, line = self._root, 1
        for part in place:
            if isinstance(node, yaml.MappingNode):
                found = [(key, value) for key, value in node.value if key.value == part]
                if not found:
                    break
                line, node = found[0][0].start_mark.line + 1, found[0][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return line


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{str(path)!r}: cannot be read: {error}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"{path}:{line}: cannot be read: byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error


def _values(path: Path, root: yaml.Node | None) -> Any:
    """Of the whole tree, by the rules of yaml.SafeLoader."""
    if root is None:
        return None

    class Loader(yaml.SafeLoader):
        def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except ValueError as error:
                line, tag = node.start_mark.line + 1, node.tag.rpartition(":")[2]
                raise SettingsError(
                    f"{path}:{line}: cannot be taken for a value of the kind {tag}; put it in quotes if it is text"
                ) from error

    loader = Loader("")
    try:
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _repeated_keys(node: yaml.Node | None, place: Place, seen: set[int]) -> list[Place]:
    """Each section is looked at once, however many aliases lead to it."""
    if node is None or id(node) in seen:
        return []
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [found for number, item in enumerate(node.value) for found in _repeated_keys(item, (*place, number), seen)]
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = [key.value for key, _ in node.value]
    twice = [(*place, key) for key in dict.fromkeys(keys) if keys.count(key) > 1]
    return twice + [found for key, value in node.value for found in _repeated_keys(value, (*place, key.value), seen)]
