"""Classes with just the members that real bindings have: names, signatures and what can be set come from a recorded surface."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from tests.fakes.simulated_cuda import SimulatedCuda


class State:
    """What the classes of one module share."""

    def __init__(self, module: Any, cuda: SimulatedCuda, surface: dict[str, Any]) -> None:
        self.module, self.cuda, self.surface = module, cuda, surface


def enumeration(name: str, found: dict[str, Any]) -> type[IntEnum]:
    """The real enumeration."""
    return IntEnum(name, {key: member["value"] for key, member in found["members"].items() if member["kind"] == "enum"})


def bound(kind: type, found: dict[str, Any], state: State) -> type:
    """`kind` with the members that the real class has, its methods checked against the real signatures."""
    members = found["members"]
    kept: dict[str, Any] = {"_state": state, "_members": members}
    for name, value in vars(kind).items():
        if name.startswith("_") and name != "__init__":
            if name not in ("__dict__", "__weakref__", "__doc__"):
                kept[name] = value
        elif name in members or name == "__init__":
            kept[name] = _checked(kind.__name__, name, value, members.get(name, {}), state) if callable(value) else value
    for name, member in members.items():
        if member["kind"] == "class":
            kept[name] = enumeration(name, member)
    base = kind.__base__ or object
    return type(kind.__name__, (base,), kept)


def _checked(kind: str, name: str, function: Callable[..., Any], member: dict[str, Any], state: State) -> Callable[..., Any]:
    signatures = [_parameters(text) for text in re.findall(rf"{name}\(self[^,)]*,? ?(.*?)\) ->", member.get("doc", ""))]

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        if name != "__init__":
            fits = any(
                len(arguments) + len(named) <= len(names)
                and set(named) <= set(names[len(arguments) :])
                and required <= {*names[: len(arguments)], *named}
                for names, required in signatures
            )
            assert fits, f"tensorrt {state.module.__version__} has no {kind}.{name} for {arguments} {named}: {signatures}"
            state.module.calls.append((kind, name, (*arguments, *named.values())))
        return function(self, *arguments, **named)

    return call


def _parameters(text: str) -> tuple[list[str], set[str]]:
    """The names in `a: int, b: str = None`, and those without a default."""
    parts = [part for part in re.split(r", (?=\w+:)", text) if part]
    return [part.partition(":")[0] for part in parts], {part.partition(":")[0] for part in parts if "=" not in part}


class Sim:
    """The base of what is simulated: only what the real class lets one set can be set."""

    _state: State
    _members: dict[str, Any]

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            member = self._members.get(name)
            writable = member is not None and member["kind"] == "property" and member["writable"]
            assert writable, f"{type(self).__name__}.{name} cannot be set"
            self._state.module.calls.append((type(self).__name__, name, (value,)))
        object.__setattr__(self, name, value)

    def _new(self, kind: str, *arguments: Any) -> Any:
        return getattr(self._state.module, kind)(*arguments)
