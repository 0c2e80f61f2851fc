"""What an installation brings."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"agent", "engines", "calibration", "fleet"}
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of the wheel, built from a copy so that no build folder is left behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in PACKAGES | {"tests"}:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    result = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_top_level_names_are_the_packages(members: set[str]) -> None:
    tops = {name.partition("/")[0] for name in members}
    assert {name for name in tops if not name.endswith(".dist-info")} == PACKAGES


def test_every_module_and_data_file_is_in(members: set[str]) -> None:
    tracked = subprocess.run(["git", "ls-files", *sorted(PACKAGES)], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(tracked.split()) - members == set()


def test_the_licence_is_in(members: set[str]) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in members)
