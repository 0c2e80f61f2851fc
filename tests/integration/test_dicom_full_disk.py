"""Answers to a PACS that is up, while the device's own disk is full."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent.studies import SealedFolder, StudySpaceError
from tests.fakes.orthanc import Orthanc
from tests.fakes.radiographs import SOCKETS_LEFT, accept, analyse, receiving
from tests.fakes.small_disk import fill, on_small_disk
from tests.waiting import wait_until

pytestmark = SOCKETS_LEFT


@on_small_disk(48)
def test_a_full_disk_does_not_keep_answers_from_a_pacs_that_is_up(tmp_path: Path, small_disk: Path, pacs: Orthanc) -> None:
    """What is delivered makes the room for its receipt, which is all that has to be written."""
    destination = {"host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS", "first_retry_s": 0.2, "longest_retry_s": 0.4}
    with receiving(small_disk, destination=destination) as running:
        for number in (1, 2, 3):
            analyse(running.folders, accept(running, number))
        wait_until(lambda: len(running.folders.answers.items()) == 3, 60, "the answers to be built")
        filler = fill(small_disk)
        pacs.start()
        wait_until(lambda: len(pacs.instances()) == 6, 60, "the PACS to have all")
        wait_until(lambda: len(running.folders.answered.items()) == 3 and not running.folders.inbox.items(), 30, "the receipts")
        filler.unlink()
        assert len(pacs.instances()) == 6


def test_receipts_that_cannot_be_written_yet_keep_no_answer_back(
    tmp_path: Path, pacs: Orthanc, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pacs.start()
    full = threading.Event()
    full.set()
    write_all = SealedFolder.write_all

    def refused(folder: SealedFolder, *given: Any, **more: Any) -> None:
        if full.is_set() and folder.path.name == "answered":
            raise StudySpaceError("there is no room for receipts")
        write_all(folder, *given, **more)

    monkeypatch.setattr(SealedFolder, "write_all", refused)
    destination = {"host": "127.0.0.1", "port": pacs.port, "ae_title": "PACS", "first_retry_s": 0.1, "longest_retry_s": 0.2}
    with receiving(tmp_path, destination=destination) as running:
        for number in (1, 2, 3):
            analyse(running.folders, accept(running, number))
            wait_until(lambda: len(pacs.instances()) == 2 * number, 60, f"the PACS to have answer {number}")  # noqa: B023
        wait_until(lambda: "no room for receipts" in caplog.text, 30, "a word about it")
        time.sleep(1)
        full.clear()
        wait_until(lambda: len(running.folders.answered.items()) == 3 and not running.folders.inbox.items(), 30, "the receipts")
        assert running.counters.figures()["answered"] == 3
        assert len(pacs.instances()) == 6
    assert caplog.text.count("no room for receipts") == 1
