"""What an installation brings."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from provisioning.host.machine import kit
from provisioning.host.releases import Recipe

ROOT = Path(__file__).parents[2]
PACKAGES = {"agent", "engines", "calibration", "fleet", "provisioning", "training"}
UNDECLARED = {"jtop", "pydantic_core", "typing_extensions"}
"""jetson-stats is AGPL and taken where it is there; pydantic pins its own core; the last is for type checkers alone."""
NOT_HERE = {"cuda": "cuda-python", "tensorrt": "tensorrt", "pynvml": "nvidia-ml-py"}
"""What is for hosts with a GPU, and not installed for the tests: the package of a module."""
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy so that no build folder is left behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in PACKAGES | {"tests"}:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    result = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def members(wheel: Path) -> set[str]:
    """The files in it."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_top_level_names_are_the_packages(members: set[str]) -> None:
    tops = {name.partition("/")[0] for name in members}
    assert {name for name in tops if not name.endswith(".dist-info")} == PACKAGES


def test_every_module_and_data_file_is_in(members: set[str]) -> None:
    tracked = subprocess.run(["git", "ls-files", *sorted(PACKAGES)], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    linked = {name: (ROOT / name).resolve() for name in tracked.split() if (ROOT / name).is_symlink()}
    units = {f"{name}/{file.name}" for name, folder in linked.items() for file in folder.iterdir()}
    assert "provisioning/host/units/almena-vision.service" in units
    assert set(tracked.split()) - linked.keys() | units <= members


def test_the_licence_is_in(members: set[str]) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in members)


def _imported() -> set[str]:
    """Top-level names that any module of the packages imports, at its head or later."""
    nodes = [node for name in PACKAGES for path in (ROOT / name).rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}}


def test_its_extras_are_known(wheel: Path) -> None:
    offered = Recipe(wheel, ()).offered
    assert {*kit(ROOT, "x86_64").extras, *kit(ROOT, "aarch64").extras, "hub", "dicom", "tensorrt"} <= set(offered)
    assert len(offered) == len(set(offered))


def test_everything_imported_is_declared(wheel: Path) -> None:
    (found,) = metadata.distributions(name="almena", path=[str(wheel)])
    declared = {_normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in found.requires or ()}
    owners = metadata.packages_distributions()
    foreign = _imported() - PACKAGES - set(sys.stdlib_module_names) - UNDECLARED
    assert {"cv2", "h11", "yaml"} <= foreign
    packages = {name: {_normal(owner) for owner in owners.get(name, (NOT_HERE.get(name, ""),))} for name in foreign}
    assert {name: found for name, found in packages.items() if not found & declared} == {}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
