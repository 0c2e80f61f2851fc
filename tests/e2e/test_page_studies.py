"""The worklist in a real browser: only after a login, with heat maps that can be hidden."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from agent.dicom_settings import DicomSettings
from agent.http.passwords import hash_password
from agent.settings import LoginSettings, WebSettings
from agent.studies import StudyFolders, StudyPicture, StudyResult
from tests.fakes.radiograph import chest
from tests.fakes.small_site import SmallSite
from tests.fakes.watched import watched

PASSWORD = "correct horse"
LOGIN = LoginSettings(username="ada", password_hash=hash_password(PASSWORD))
SCORES = {"covid": 0.91, "normal": 0.03, "pneumonia": 0.06}
TIMINGS = {"queue": 0.004, "decode": 0.031, "preprocess": 0.002, "infer": 0.006, "explain": 0.003}


def put(folders: StudyFolders, name: str, decision: str, abstained: str = "") -> str:
    """A radiograph that has been answered, or not."""
    item = folders.item(name)
    folders.write_picture(StudyPicture(item, chest(), received_at=time.time()))
    folders.picture_done(item)
    spot = np.zeros((64, 60), np.uint8)
    cv2.circle(spot, (18, 34), 9, 255, -1)
    heat = bytes(cv2.imencode(".png", cv2.GaussianBlur(spot, (0, 0), 4))[1]) if decision else None
    scores = SCORES if decision else {}
    result = StudyResult(item, "chest-xray@0123", scores, "covid", 0.41, decision, abstained, (), heat, TIMINGS, time.time())
    folders.write_result(result)
    return item


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SmallSite]:
    with SmallSite(tmp_path, WebSettings(port=0, login=LOGIN), dicom=DicomSettings()) as site:
        yield site


@pytest.fixture
def page(browser: Browser, site: SmallSite) -> Iterator[Page]:
    with watched(browser, site.server.url) as page:
        page.goto(f"{site.server.url}login")
        page.get_by_label("User").fill("ada")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.locator("#feed-state")).to_have_text("live")
        yield page


def test_recent_radiographs_with_scores_times_and_a_heat_map_that_can_be_hidden(page: Page, site: SmallSite) -> None:
    folders = StudyFolders(site.settings.state_dir)
    page.get_by_role("tab", name="Studies").click()
    expect(page.get_by_text("No radiograph has arrived yet")).to_be_visible()
    first = put(folders, "1", "covid")
    second = put(folders, "2", "", "no frontal chest radiograph by its tags: view LL is not frontal")
    cards = page.get_by_role("article")
    expect(cards).to_have_count(2)
    expect(cards.first).to_contain_text("No frontal chest radiograph by its tags: view LL is not frontal.")
    answered = page.get_by_role("article", name=f"Radiograph {first[:8]}")
    expect(answered).to_contain_text("The model answers covid")
    expect(answered).to_contain_text("0.910 (answer from 0.410 on)")
    expect(answered).to_contain_text("decode 31 ms · preprocess 2 ms · infer 6 ms")
    heat = answered.get_by_alt_text("Where the model saw covid")
    expect(heat).to_be_visible()
    assert heat.evaluate("image => image.decode().then(() => image.naturalWidth)") == 60
    picture = answered.get_by_alt_text(f"Radiograph {first[:8]}", exact=True)
    assert picture.evaluate("image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [300, 320]
    page.get_by_label("Heat map").uncheck()
    expect(heat).to_be_hidden()
    expect(picture).to_be_visible()
    folders.shown.remove(second)
    expect(cards.first).to_contain_text("The picture has been deleted.")
    folders.fail(folders.item("3"), "truncated", "it ends early: 10 of 20 bytes of pixel data are there")
    expect(cards).to_have_count(3)
    expect(cards.first).to_contain_text("Cannot be used: truncated")
    expect(cards.first).to_contain_text("It ends early: 10 of 20 bytes of pixel data are there.")


def test_without_a_login_nothing_of_a_radiograph_is_shown(tmp_path: Path, browser: Browser) -> None:
    with SmallSite(tmp_path, dicom=DicomSettings()) as open_site:
        item = put(StudyFolders(tmp_path), "1", "covid")
        for path in ("", f"/{item}/picture.jpg", f"/{item}/heat-map.png"):
            answer = open_site.client.get(f"/api/1/studies{path}")
            assert (answer.status_code, answer.json()["title"]) == (403, "Radiographs are shown only after a login")
        page = browser.new_page()
        page.goto(f"{open_site.server.url}#/studies")
        expect(page.locator("#worklist")).to_contain_text("only after a login")
        page.close()


def test_requests_need_the_session_and_items_that_are_there(site: SmallSite) -> None:
    item = put(StudyFolders(site.settings.state_dir), "1", "covid")
    assert site.client.get("/api/1/studies").status_code == 401
    assert site.client.get(f"/api/1/studies/{item}/picture.jpg").status_code == 401
    ours = httpx.BasicAuth("ada", PASSWORD)
    assert [one["item"] for one in site.client.get("/api/1/studies", auth=ours).json()] == [item]
    picture = site.client.get(f"/api/1/studies/{item}/picture.jpg", auth=ours)
    assert (picture.headers["content-type"], picture.headers["cache-control"]) == ("image/jpeg", "no-store")
    for wrong in (32 * "0", "..%2f..%2fkey", "key"):
        assert site.client.get(f"/api/1/studies/{wrong}/picture.jpg", auth=ours).status_code == 404
    with SmallSite(site.settings.state_dir / "other", WebSettings(port=0, login=LOGIN)) as bare:
        assert bare.client.get("/api/1/studies", auth=ours).json() == []
        assert bare.client.get(f"/api/1/studies/{item}/picture.jpg", auth=ours).status_code == 404
        assert bare.client.get("/api/1/health", auth=ours).json()["studies"] is False
