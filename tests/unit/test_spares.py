"""Files that are written over: only those whose old names are durably gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent import spares
from agent.spares import Spares
from agent.studies import StudyFolders, StudyInstance

pytestmark = pytest.mark.unit


def made(folder: Path, name: str, size: int = 1) -> str:
    (folder / name).write_bytes(bytes(size))
    return str(folder / name)


def test_a_file_is_written_over_only_once_its_old_name_is_durably_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, synced = Spares(tmp_path), []
    kept.give(made(tmp_path, "a"))
    assert not os.path.exists(kept.take())

    def sync(folder: Path) -> None:
        synced.append(sorted(os.listdir(folder)))
        if len(synced) == 1:
            kept.give(made(tmp_path, "b"))  # too late for this time

    monkeypatch.setattr(spares, "sync_folder", sync)
    kept.sync()
    first = kept.take()
    assert os.path.exists(first)
    assert not os.path.exists(kept.take())
    kept.sync()
    second = kept.take()
    assert synced == [[os.path.basename(first)], sorted([os.path.basename(first), os.path.basename(second)])]


def test_few_and_small_ones_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "LARGEST", 10)
    monkeypatch.setattr(spares, "MOST", 45)
    kept = Spares(tmp_path)
    kept.give(made(tmp_path, "large", 11))
    kept.give(str(tmp_path / "gone"))
    assert os.listdir(tmp_path) == []
    for number in range(3):
        kept.give(made(tmp_path, str(number), 10))
    kept.sync()
    for number in range(3):
        kept.give(made(tmp_path, str(number), 10))
    assert len(os.listdir(tmp_path)) == 4


def test_what_is_written_over_a_longer_piece_comes_back_as_it_was(tmp_path: Path) -> None:
    folders = StudyFolders(tmp_path)
    items = [folders.item(str(number)) for number in range(3)]
    folders.write_instance(StudyInstance(items[0], b"long" * 99, 1.0, 1))
    file = os.stat(tmp_path / "studies" / "inbox" / items[0]).st_ino
    folders.inbox.retire(items[0])
    assert folders.inbox.items() == []
    folders.write_instance(StudyInstance(items[1], b"one", 2.0, 1))
    folders.write_instance(StudyInstance(items[2], b"short", 3.0, 1))
    assert os.stat(tmp_path / "studies" / "inbox" / items[2]).st_ino == file
    assert [folders.instance(item).data for item in folders.inbox.items()] == [b"one", b"short"]
