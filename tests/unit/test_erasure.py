"""Erasure and expiry on a device: gallery, history, live pictures and word to the hub, whatever was interrupted."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.datatypes import Event
from agent.errors import UnknownError
from agent.outbox import Outbox, OutboxError
from agent.settings import Settings
from agent.vision import erasure
from agent.vision.erasure import Housekeeping, erase
from agent.vision.face_control import FaceControl
from agent.vision.face_kit import open_gallery
from agent.vision.gallery import Gallery, Identity, Picture
from agent.vision.gallery_store import GalleryError
from tests.fakes.clock import FakeClock
from tests.waiting import wait_until

pytestmark = pytest.mark.unit

NAME = "Zacharias"


class Site:
    """A device that has seen somebody: no stream runs, no model is loaded."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings.model_validate({"state_dir": folder / "state"})
        self.outbox = Outbox.open(self.settings.outbox_dir, "dev", self.settings.outbox)
        self.gallery = open_gallery(self.settings)
        self.clock = FakeClock()
        self.clock.wall_s = time.time()
        self.forgotten = 0
        self.keeper = self.housekeeping()

    def housekeeping(self) -> Housekeeping:
        return Housekeeping(self.settings, self.outbox, self._forget, self.clock)

    def enrol(self, **options: Any) -> Identity:
        vector = np.eye(1, 128, dtype=np.float32)[0]
        person = self.gallery.add(NAME, [Picture(b"JPEG", vector)], **options)
        self.tell(person)
        return person

    def tell(self, person: Identity) -> None:
        data = {"identity": person.id, "name": person.name, "decision": "known"}
        self.outbox.append("event", [Event("cam", "seen", data, 1.0, 1)])

    def holding(self) -> list[str]:
        """Files of the outbox in which the name can be read."""
        return [path.name for path in self.settings.outbox_dir.iterdir() if NAME.encode() in path.read_bytes()]

    def audit(self) -> list[dict[str, Any]]:
        return [one["data"] for one in self.outbox.history(lane="audit", after_seq=0)]

    def close(self) -> None:
        self.keeper.stop()
        self.gallery.close()
        self.outbox.close()

    def _forget(self) -> None:
        self.forgotten += 1


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(Site(tmp_path)) as site:
        yield site


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "SETTLE_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_who_expires_leaves_gallery_and_history_without_a_stream_or_a_model(site: Site) -> None:
    person = site.enrol(expires_at=site.clock.wall_s + 100)
    site.keeper.tick()
    assert site.holding()
    site.clock.pass_time(101)
    site.keeper.tick()
    assert site.holding() == []
    assert site.forgotten == 1
    site.keeper.tick()
    [receipt] = site.gallery.receipts()
    assert receipt.reason == "expired"
    detail = {"id": person.id, "receipt": receipt.id, "reason": "expired"}
    assert site.audit() == [{"action": "identity erase", "actor": "device", "outcome": "done", "detail": detail}]
    site.keeper.tick()
    assert len(site.audit()) == 1


def test_a_clock_that_nobody_vouches_for_erases_nobody(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    person = site.enrol(expires_at=site.clock.wall_s + 100)
    site.clock.synced = False
    site.clock.pass_time(10**9)
    site.keeper.tick()
    site.keeper.tick()
    assert site.gallery.get(person.id).name == NAME
    assert caplog.text.count("the clock is not synchronised") == 1
    site.clock.synced = True
    site.keeper.tick()
    assert not site.gallery.identities()


@pytest.mark.usefixtures("at_once")
def test_what_a_crash_or_another_process_left_undone_is_done(site: Site) -> None:
    person = site.enrol()
    site.gallery.erase(person.id)
    assert site.holding()
    later = site.housekeeping()
    later.tick()
    assert site.holding() == []
    site.tell(person)  # was under way in a stream
    later.tick()
    later.stop()
    assert site.holding() == []
    assert [entry["detail"]["reason"] for entry in site.audit()] == ["requested"]
    assert site.gallery.receipts(unfollowed=True) == []


def test_nothing_is_settled_before_streams_had_time(site: Site) -> None:
    site.gallery.erase(site.enrol().id)
    site.keeper.tick()
    site.keeper.tick()
    assert site.audit() == []
    assert len(site.gallery.receipts(unfollowed=True)) == 1


@pytest.mark.usefixtures("at_once")
def test_a_busy_log_is_told_and_emptied_later(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.outbox.schema.WRITE_BACK_MS", 1)
    person = site.enrol()
    with closing(sqlite3.connect(site.settings.outbox_dir / "outbox.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM rows").fetchone()
        with pytest.raises(OutboxError, match="in use"):
            erase(site.gallery, site.outbox, person.id)
        assert site.holding()
        site.keeper.tick()
        assert site.audit() == []
        reader.execute("COMMIT")
    assert erase(site.gallery, site.outbox, person.id)[0].identity == person.id
    assert site.holding() == []
    site.keeper.tick()
    assert len(site.audit()) == 1


def test_a_gallery_that_is_busy_does_not_keep_the_history_from_being_erased(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(_: Gallery) -> None:
        raise GalleryError("busy")

    person = site.enrol()
    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "scrub", busy)
        with pytest.raises(GalleryError):
            erase(site.gallery, site.outbox, person.id)
    assert site.holding() == []
    assert erase(site.gallery, site.outbox, person.id)[1] == 0


def test_the_page_erases_without_waiting_for_models(site: Site) -> None:
    person = site.enrol()
    faces = FaceControl(site.settings, site.outbox)
    faces.erase(person.id)
    assert site.holding() == []
    faces.erase(person.id)
    with pytest.raises(UnknownError):
        faces.erase("p-000000000000")


def test_the_thread_works_and_no_gallery_is_made_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "TICK_S", 0.01)
    settings = Settings.model_validate({"state_dir": tmp_path / "state"})
    with Outbox.open(settings.outbox_dir, "dev", settings.outbox) as outbox:
        keeper = Housekeeping(settings, outbox, lambda: None, FakeClock())
        keeper.tick()
        assert not settings.gallery_dir.exists()
        keeper.start()
        with closing(open_gallery(settings)) as gallery:
            person = gallery.add(NAME, [])
            outbox.append("event", [Event("cam", "seen", {"identity": person.id, "name": NAME}, 1.0, 1)])
            gallery.erase(person.id)
        wait_until(lambda: outbox.history()[0]["data"]["name"] is None, 10, "the history to be erased")
        keeper.stop()
