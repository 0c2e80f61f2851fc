"""Rules that no linter of the project knows: sizes, broad excepts, paths of somebody's machine."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "engines", "calibration", "fleet", "provisioning", "training")
FILE_LINES = 400
FUNCTION_LINES = 45


def _files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


Function = (ast.FunctionDef, ast.AsyncFunctionDef)


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of its own: those of functions inside it count for themselves."""
    inner = [node for statement in function.body for node in _outermost(statement)]
    return (function.end_lineno or 0) - function.lineno + 1 - sum((node.end_lineno or 0) - node.lineno + 1 for node in inner)


def _outermost(node: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    if isinstance(node, Function):
        return [node]
    return [found for child in ast.iter_child_nodes(node) for found in _outermost(child)]


def long_functions(source: str) -> list[str]:
    """Name and length of each function over the limit."""
    lengths = {f"{node.name}:{node.lineno}": _length(node) for node in ast.walk(ast.parse(source)) if isinstance(node, Function)}
    return [f"{name} has {length} lines" for name, length in lengths.items() if length > FUNCTION_LINES]


def unexplained_excepts(source: str) -> list[int]:
    """Lines of broad excepts that neither raise again nor say in a comment why they are broad."""
    lines = source.splitlines()
    broad = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ExceptHandler) and _is_broad(node.type)]
    return [
        node.lineno
        for node in broad
        if not _raises(node) and not re.search(r"# (?:noqa: BLE001 - |(?!noqa))\w.{8,}", lines[node.lineno - 1])
    ]


def _is_broad(kind: ast.expr | None) -> bool:
    parts = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(part is None or (isinstance(part, ast.Name) and part.id in ("Exception", "BaseException")) for part in parts)


def _raises(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in _files()}
    assert len(lengths) > 40
    assert {name: length for name, length in lengths.items() if length > FILE_LINES} == {}


def test_functions_are_short() -> None:
    assert long_functions("def f():\n" + "    x = 1\n" * FUNCTION_LINES) == ["f:1 has 46 lines"]
    assert long_functions("def f():\n" + "    def g():\n" + "        x = 1\n" * 40 + "    def h():\n" + "        x = 1\n" * 40) == []
    found = {str(path.relative_to(ROOT)): long_functions(path.read_text(encoding="utf-8")) for path in _files()}
    assert {name: functions for name, functions in found.items() if functions} == {}


def test_a_broad_except_gives_its_reason() -> None:
    body = "try:\n    f()\nexcept {}\n    {}\n"
    assert unexplained_excepts(body.format("Exception:", "pass")) == [3]
    assert unexplained_excepts(body.format("(OSError, Exception):  # noqa: BLE001", "pass")) == [3]
    assert unexplained_excepts(body.format("Exception:  # noqa: BLE001 - the supervisor of f", "pass")) == []
    assert unexplained_excepts(body.format("BaseException:", "raise")) == []
    found = {str(path.relative_to(ROOT)): unexplained_excepts(path.read_text(encoding="utf-8")) for path in _files()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_no_path_of_somebodys_machine() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    personal = re.compile(rf"{re.escape(str(ROOT))}\b|/(?:home|Users)/\w|/root/\w|[A-Z]:\\Users")
    assert personal.search(f"x {ROOT}/y")
    found = []
    for name in filter(None, tracked):
        path = ROOT / name
        if not path.is_file() or path == Path(__file__):
            continue
        text = path.read_bytes().decode("utf-8", "ignore")
        found += [f"{name}: {match[0]}" for match in personal.finditer(text)]
    assert found == []
