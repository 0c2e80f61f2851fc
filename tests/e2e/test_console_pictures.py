"""Pictures in the hub's console: a real browser, the hub's interface, and a device that may send them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from fleet.door import live
from tests.fakes.face_events import face
from tests.fakes.hub_api import PASSWORD
from tests.fakes.picture_site import DEVICE, PictureSite
from tests.fakes.watched import watched
from tests.waiting import wait_until


def test_an_operator_sees_a_face_takes_a_snapshot_and_looks(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "NOBODY_S", 0.3)
    with ExitStack() as stops:
        site = PictureSite(tmp_path, stops)
        envelope = site.sees(face(box=[100, 100, 180, 200]))
        wait_until(lambda: site.pictures.state()["waiting"] == 1, 20, "the picture")
        site.stored(envelope)
        spool, seq = envelope["id"].split("/")[1:]
        site.door.put(f"/events/{spool}/{seq}/picture", site.pictures.picture(spool, int(seq)), "image/jpeg")
        site.hub.accounts.add_user("test", "ada", PASSWORD, "operator")
        stops.enter_context(site.obeying())
        page = stops.enter_context(watched(browser, site.hub.server.url))
        page.goto(site.hub.server.url)
        page.locator("#username").fill("ada")
        page.locator("#password").fill(PASSWORD)
        page.locator("#password").press("Enter")
        expect(page.locator("#live")).to_have_class("pill good")
        page.goto(f"{site.hub.server.url}#/device/{DEVICE}/events")
        thumbnail = page.locator("a.thumbnail img")
        expect(thumbnail).to_be_visible()
        wait_until(lambda: thumbnail.evaluate("image => image.naturalWidth") > 0, 20, "the face")

        site.stored(site.sees(face(box=[200, 100, 280, 200])))
        expect(page.locator("li[data-event]")).to_have_count(2)
        wait_until(lambda: thumbnail.count() == 2, 30, "the picture that the device sent by itself")

        page.get_by_role("link", name="Pictures").click()
        page.get_by_role("button", name="Take a snapshot: door").click()
        snapshot = page.get_by_alt_text("Snapshot of door")
        expect(snapshot).to_be_visible()
        wait_until(lambda: snapshot.evaluate("image => image.naturalWidth") == 640, 20, "the snapshot")

        page.get_by_role("button", name="Look: door").click()
        picture = page.get_by_role("img", name="Live picture of door")
        expect(picture).to_be_visible()
        wait_until(lambda: picture.evaluate("image => image.naturalWidth") == 640, 20, "the live picture")
        wait_until(lambda: site.status.watched, 10, "the device to say that somebody looks")
        page.get_by_role("button", name="Stop looking").click()
        expect(picture).to_be_hidden()
        wait_until(lambda: not site.status.watched, 15, "the device to end it")
