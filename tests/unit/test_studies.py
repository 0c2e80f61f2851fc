"""What the DICOM process and the vision process hand each other: whole, in order, sealed, and nameless."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from agent.settings import Settings
from agent.studies import SealedFolder, StudyError, StudyFolders, StudyInstance, StudyPicture, StudyResult, UnknownStudyError
from agent.vision.sources.dicom import DicomConfig, DicomSource

pytestmark = pytest.mark.unit
UID = "1.2.826.0.1.3680043.8.498.1"


def _picture(item: str, received_at: float = 10.0) -> StudyPicture:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    return StudyPicture(item, image, "DX", "PA", "CHEST", note="", received_at=received_at, received_ns=5, decode_s=0.01)


def test_pieces_come_back_as_they_were(tmp_path: Path) -> None:
    folders = StudyFolders(tmp_path)
    item = folders.item(UID)
    instance = StudyInstance(item, b"DICM" * 99, 12.5, 7)
    folders.write_instance(instance)
    folders.write_picture(_picture(item))
    result = StudyResult(item, "m@12", {"covid": 0.9, "normal": 0.1}, "covid", 0.4, "covid", "", ("One.",), b"PNG", {"infer": 0.1}, 20.0)
    folders.write_result(result)
    again = StudyFolders(tmp_path)
    assert again.item(UID) == item
    assert again.instance(item) == instance
    assert again.result(item) == result
    picture = again.picture(item)
    assert np.array_equal(picture.image, _picture(item).image)
    assert (picture.view, picture.decode_s) == ("PA", 0.01)
    again.picture_done(item)
    assert again.pictures.items() == []
    assert again.picture(item).view == "PA"


def test_items_are_listed_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    folders = StudyFolders(tmp_path)
    items = [folders.item(f"{UID}.{number}") for number in range(8)]
    for number, item in reversed(list(enumerate(items))):
        folders.write_picture(_picture(item, received_at=1000.0 + number / 1000))
    assert folders.pictures.items() == items


def test_no_byte_and_no_name_tells_of_the_patient(tmp_path: Path) -> None:
    folders = StudyFolders(tmp_path)
    folders.write_instance(StudyInstance(folders.item(UID), b"Unmistakable^Anna", 1.0, 1))
    folders.fail(folders.item(UID), "no-pixels", "there are no pixels")
    for path in (tmp_path / "studies").rglob("*"):
        assert UID not in path.name
        assert not path.is_file() or b"Unmistakable" not in path.read_bytes()
    assert StudyFolders(tmp_path / "other").item(UID) != folders.item(UID)


def test_a_failed_item_keeps_its_instance_and_its_reason(tmp_path: Path) -> None:
    folders = StudyFolders(tmp_path)
    item = folders.item(UID)
    folders.write_instance(StudyInstance(item, b"x", 1.0, 1))
    folders.fail(item, "no-pixels", "there are no pixels")
    assert folders.inbox.items() == []
    assert folders.instance(item, folders.failed).data == b"x"
    assert [(failure.item, failure.reason) for failure in folders.failures()] == [(item, "no-pixels")]


def test_a_reason_that_a_loss_of_power_took_stops_nobody(tmp_path: Path) -> None:
    folders = StudyFolders(tmp_path)
    (folders.failed.path / "gone.json").touch()
    (found,) = folders.failures()
    assert (found.item, found.reason, found.detail) == ("gone", "unknown", "the reason was lost with the power")


def test_a_failure_waits_to_be_told_until_its_instance_is_away_and_once_for_each_arrival(tmp_path: Path) -> None:
    folders = StudyFolders(tmp_path)
    item = folders.item(UID)
    for _ in range(2):  # the second time as after a kill before the instance was moved
        folders.write_instance(StudyInstance(item, b"x", 1.0, 1))
        folders.fail(item, "no-pixels", "there are no pixels")
    (name,) = folders.reports.items()
    failure = folders.report(name)
    assert failure is not None
    assert (failure.item, failure.reason) == (item, "no-pixels")
    folders.write_instance(StudyInstance(item, b"y", 2.0, 1))
    assert folders.report(name) is None


def test_what_was_changed_or_exchanged_is_an_error(tmp_path: Path) -> None:
    folders = StudyFolders(tmp_path)
    one, other = folders.item("1.2"), folders.item("1.3")
    for item in (one, other):
        folders.write_instance(StudyInstance(item, b"x", 1.0, 1))
    inbox = tmp_path / "studies" / "inbox"
    (inbox / one).write_bytes((inbox / other).read_bytes())
    with pytest.raises(StudyError, match="damaged"):
        folders.instance(one)
    (inbox / other).write_bytes(b"")
    with pytest.raises(StudyError, match="damaged"):
        folders.instance(other)
    for name in ("../key", "", "f" * 31):
        with pytest.raises(UnknownStudyError):
            folders.instance(name)


def test_a_first_key_and_new_folders_outlive_a_loss_of_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: dict[str, set[str]] = {}

    def noted(descriptor: int) -> None:
        place = os.readlink(f"/proc/self/fd/{descriptor}")
        synced[place] = set(os.listdir(place)) if os.path.isdir(place) else set()

    monkeypatch.setattr(os, "fsync", noted)
    StudyFolders(tmp_path / "state", tmp_path / "keys" / "first.key")
    assert {"inbox", "reports", "answered"} <= synced[str(tmp_path / "state" / "studies")]
    assert synced[str(tmp_path / "state")] == {"studies"}
    assert synced[str(tmp_path / "keys")] == {"first.key"}
    assert "keys" in synced[str(tmp_path)]


def test_a_lost_key_is_not_replaced(tmp_path: Path) -> None:
    folders = StudyFolders(tmp_path)
    folders.write_instance(StudyInstance(folders.item(UID), b"x", 1.0, 1))
    (tmp_path / "studies" / "key").unlink()
    with pytest.raises(StudyError, match="bring it back"):
        StudyFolders(tmp_path)


def test_a_picture_that_is_done_while_its_folder_is_listed_is_not_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders, source = StudyFolders(tmp_path), DicomSource(DicomConfig(), "xray")
    source.prepare(Settings.model_validate({"state_dir": tmp_path}))
    item = folders.item(UID)
    folders.write_picture(_picture(item))
    frame = source.read()
    assert frame is not None
    listing = SealedFolder.items

    def listed(folder: SealedFolder) -> list[str]:
        found = listing(folder)
        source.done(item)
        return found

    monkeypatch.setattr(SealedFolder, "items", listed)
    source.interrupt()
    assert source.read() is None
    assert folders.shown.holds(item)
