"""A disk that gives other bytes than were written: one damaged file holds up nothing else, and what can be made again is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.dicom.intake import Accepted, RefusedError
from agent.dicom.service import Dicom
from agent.studies import SealedFolder, StudyError
from tests.fakes.orthanc import Orthanc
from tests.fakes.radiographs import SOCKETS_LEFT, accept, analyse, damage, instance, phantom, receiving
from tests.waiting import wait_until

pytestmark = SOCKETS_LEFT


def again(running: Dicom, number: int, pixels: Any = None) -> Accepted:
    """Take one, whatever is here of it."""
    assert running.receiver
    return running.receiver._intake.accept(instance(number, pixels))


def test_a_damaged_answer_is_built_again_and_holds_up_no_other(tmp_path: Path, pacs: Orthanc, caplog: pytest.LogCaptureFixture) -> None:
    destination = {"host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS", "first_retry_s": 0.1, "longest_retry_s": 0.2}
    with receiving(tmp_path, destination=destination) as running:
        items = [accept(running, number) for number in (1, 2, 3)]
        for item in items:
            analyse(running.folders, item)
        wait_until(lambda: len(running.folders.answers.items()) == 3, 60, "the answers to be built")
        damage(running.folders.answers, items[0])
        pacs.start()
        wait_until(lambda: len(pacs.instances()) == 6, 60, "the PACS to have all")
        wait_until(lambda: not running.folders.inbox.items(), 30, "the receipts")
        assert running.folders.dead.items() == []
    assert f"{items[0]}: its answer cannot be read (1 of 3), and is built again" in caplog.text


def test_an_answer_that_is_damaged_each_time_is_given_up(tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    pacs.start()
    destination = {"host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS", "first_retry_s": 0.1, "longest_retry_s": 0.2}
    with receiving(tmp_path, destination=destination) as running:
        bad, read = accept(running, 1), SealedFolder.read

        def damaged(folder: SealedFolder, item: str) -> object:
            if folder.path.name == "answers" and item == bad:
                damage(folder, item)
            return read(folder, item)

        monkeypatch.setattr(SealedFolder, "read", damaged)
        for item in (bad, accept(running, 2)):
            analyse(running.folders, item)
        wait_until(lambda: len(pacs.instances()) == 2, 60, "the other answer")
        wait_until(lambda: running.folders.dead.items() == [bad], 30, "it to be given up")
        assert [failure.reason for failure in running.folders.failures(running.folders.dead)] == ["storage"]


def test_an_answer_whose_instance_was_damaged_afterwards_has_its_receipt(
    tmp_path: Path, pacs: Orthanc, caplog: pytest.LogCaptureFixture
) -> None:
    destination = {"host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS", "first_retry_s": 0.1, "longest_retry_s": 0.2}
    with receiving(tmp_path, destination=destination) as running:
        item = accept(running, 1)
        analyse(running.folders, item)
        wait_until(running.folders.answers.items, 60, "the answer to be built")
        running.workshop.pixels.clear()
        damage(running.folders.inbox, item)
        pacs.start()
        wait_until(lambda: running.folders.answered.items() == [item] and not running.folders.inbox.items(), 60, "the receipt")
        assert running.folders.answered.read(item)[0]["pixels"] == ""
        assert not again(running, 1).duplicate
        assert not running.folders.results.holds(item), "it is analysed anew, for nobody can tell whether its pixels are the same"
        analyse(running.folders, accept(running, 1))
        wait_until(lambda: running.folders.answered.holds(item) and not running.folders.inbox.items(), 60, "another receipt")
        assert again(running, 1).duplicate
    assert f"{item}: its receipt does not tell its pixels" in caplog.text


def test_an_answer_that_cannot_be_opened_for_a_while_waits(tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the process has no descriptor left."""
    pacs.start()
    destination = {"host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS", "first_retry_s": 0.1, "longest_retry_s": 0.2}
    with receiving(tmp_path, destination=destination) as running:
        bad, read, refusals = accept(running, 1), SealedFolder.read, []

        def refused(folder: SealedFolder, item: str) -> object:
            if folder.path.name == "answers" and item == bad and len(refusals) < 5:
                refusals.append(item)
                raise StudyError("too many open files")
            return read(folder, item)

        monkeypatch.setattr(SealedFolder, "read", refused)
        analyse(running.folders, bad)
        wait_until(lambda: running.sender.trouble == "too many open files", 30, "a word about it")
        wait_until(lambda: len(pacs.instances()) == 2, 60, "the answer")
        assert len(refusals) == 5
        assert running.folders.dead.items() == []


@pytest.mark.parametrize("place", ["inbox", "failed", "dead", "answered"])
def test_a_radiograph_whose_copy_here_is_damaged_may_come_again(tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture) -> None:
    with receiving(tmp_path) as running:
        folders = running.folders
        item = accept(running, 1)
        wait_until(folders.pictures.items, 30, "the picture")
        if place == "failed":
            folders.fail(item, "codec", "in this test")
        elif place == "dead":
            folders.bury(item, "rejected", "in this test")
        elif place == "answered":
            analyse(folders, item)
            wait_until(lambda: not folders.inbox.items(), 30, "the receipt")
        damage(getattr(folders, place), item)
        assert again(running, 1).item == item
        assert folders.failures() == folders.failures(folders.dead) == []
        assert folders.instance(item).data == instance(1)
        assert not folders.results.holds(item)
        wait_until(folders.pictures.items, 30, "another picture")
        with pytest.raises(RefusedError, match="other pixels"):
            again(running, 1, phantom(seed=8).astype("u2"))
    assert f"{item}: this takes the place of what was stored of it" in caplog.text
