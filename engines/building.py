"""Which code builds engines, told apart by a digest."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.abc import InspectLoader
from importlib.util import find_spec
from types import CodeType

from engines.backends.base import Backend

BUILDERS = ("engines.backends", "engines.convert")
"""The packages whose code decides what an engine is."""
JUDGE = "engines.parity"


def built_by(backend: Backend, conversions: tuple[str, ...] = ()) -> str:
    """Digest of the backend's code, of what it uses of BUILDERS, of what compares with FP32, and of the names of the conversions.

    It is taken from the code itself, because a number that somebody has to raise is forgotten: engines of older code then stay in use, and
    their passports say what that code believed. Comments do not count; another Python does.
    """
    found: dict[str, str] = {}
    for root in (type(backend).__module__, JUDGE):
        _follow(root, found)
    code = [f"{module} {digest}" for module, digest in sorted(found.items())]
    return hashlib.sha256("|".join([*code, *conversions]).encode()).hexdigest()[:16]


def _follow(module: str, found: dict[str, str]) -> None:
    """Add the digests of the module and of those of BUILDERS that it imports, wherever in it, and of what they import in turn."""
    found[module], names = _read(module)
    for name in sorted(names):
        if name.startswith(BUILDERS) and name not in found:
            _follow(name, found)


@cache
def _read(module: str) -> tuple[str, frozenset[str]]:
    """Digest of a module's code, and all names in it, those of imported modules among them; nothing where there is no code to be had."""
    spec = find_spec(module)
    code = spec.loader.get_code(module) if spec is not None and isinstance(spec.loader, InspectLoader) else None
    names: set[str] = set()
    return (_digest(code, names) if code is not None else "", frozenset(names))


def _digest(code: CodeType, names: set[str]) -> str:
    """Of instructions, names and constants; line numbers are left out. `names` grows by those of this code and all code in it."""
    names.update(code.co_names)
    constants = [_digest(one, names) if isinstance(one, CodeType) else _shown(one) for one in code.co_consts]
    parts = [code.co_code.hex(), *code.co_names, *code.co_varnames, *constants]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _shown(constant: object) -> str:
    """The order of a set is another in each process."""
    return repr(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)
