"""Files and folders that are whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.errors import WrongHashError
from engines.files import HeldError, locked, remove, replacing, require_hash, sha256, sha256_of, size

pytestmark = pytest.mark.unit


def folder(path: Path, **files: str) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*"))


def test_the_hash_of_a_folder_is_of_names_and_contents(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", a="1", b="2")
    assert sha256(one) == sha256(folder(tmp_path / "two", b="2", a="1"))
    assert sha256(one) == sha256_of({"a": one / "a", "b": one / "b"})
    assert len({sha256(one), sha256(folder(tmp_path / "3", a="2", b="1")), sha256(folder(tmp_path / "4", a="1", c="2"))}) == 3
    assert size(one) == 2


@pytest.mark.parametrize("before", ["nothing", "file", "folder"])
def test_a_folder_takes_the_place_of_whatever_is_there(tmp_path: Path, before: str) -> None:
    target = tmp_path / "target"
    if before == "file":
        target.write_text("old")
    elif before == "folder":
        folder(target, old="old")
    with replacing(target) as temporary:
        folder(temporary, new="new")
    assert names(tmp_path) == ["target", "target/new"]


def test_a_file_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    folder(tmp_path / "target", old="old")
    with replacing(tmp_path / "target") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "target").read_text() == "new"
    assert names(tmp_path) == ["target"]


def test_a_lock_is_held_by_one_until_it_is_closed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock), pytest.raises(HeldError, match=rf"^{os.getpid()}$"):
        locked(lock)
    locked(lock).close()
    (tmp_path / "link").symlink_to(lock)
    with pytest.raises(OSError, match="link"):
        locked(tmp_path / "link")


def half_written(target: Path) -> None:
    with replacing(target) as temporary:
        folder(temporary, half="half")
        raise RuntimeError


def test_what_fails_leaves_the_old_and_no_half(tmp_path: Path) -> None:
    folder(tmp_path / "target", old="old")
    with pytest.raises(RuntimeError):
        half_written(tmp_path / "target")
    assert names(tmp_path) == ["target", "target/old"]


def test_halves_of_dead_processes_are_swept_and_those_of_living_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    monkeypatch.setattr("psutil.PROCFS_PATH", str(tmp_path / "proc"))  # as it looks to a unit with ProtectProc=invisible
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    now = time.monotonic_ns()
    dead, earlier = tmp_path / f".a.{child.stdout.strip()}.{now}.part", tmp_path / f".d.{os.getppid()}.{now + 10**15}.part"
    folder(dead, half="half")
    earlier.write_text("of an earlier boot, whose numbers are given anew")
    living = [tmp_path / f".b.{os.getpid()}.{now}.part", tmp_path / f".c.{os.getppid()}.{now}.part", tmp_path / ".mine.part"]
    for path in living:
        path.write_text("half")
    with replacing(tmp_path / "other") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == sorted([*(path.name for path in living), "other", "proc"])


def test_a_folder_with_another_hash_is_put_away_every_time(tmp_path: Path) -> None:
    for _ in range(2):
        folder(tmp_path / "model", a="1")
        with pytest.raises(WrongHashError, match="quarantine"):
            require_hash(tmp_path / "model", "0" * 64)
        assert not (tmp_path / "model").exists()
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


def test_removing_a_link_to_a_folder_spares_the_folder(tmp_path: Path) -> None:
    kept = folder(tmp_path / "kept", a="1")
    (tmp_path / "link").symlink_to(kept)
    remove(tmp_path / "link")
    assert names(tmp_path) == ["kept", "kept/a"]
