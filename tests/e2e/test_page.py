"""The page in a real browser, over the real server, outbox and control socket."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from agent.datatypes import Event
from agent.http.passwords import hash_password
from agent.settings import LoginSettings, WebSettings
from agent.tls_settings import WebTlsSettings
from tests.fakes.certificates import Authority
from tests.fakes.face_events import face
from tests.fakes.small_site import SmallSite
from tests.fakes.watched import watched
from tests.waiting import wait_until

ATTACK = "<img src=x onerror=alert(1)>"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SmallSite]:
    with SmallSite(tmp_path, streams=("door", "yard")) as site:
        yield site


@pytest.fixture
def page(browser: Browser, site: SmallSite) -> Iterator[Page]:
    """The page of `site`; fails the test when a script breaks, a dialog pops up or another host is asked."""
    with watched(browser, site.server.url) as page:
        page.goto(site.server.url)
        expect(page.locator("#feed-state")).to_have_text("live")
        yield page


def at_rest(site: SmallSite, stream: str = "door") -> bool:
    """Nobody makes the vision process encode pictures of a stream any more."""
    before = site.vision.preview(stream).encoded
    drawn = site.vision._index
    wait_until(lambda: site.vision._index > drawn + 10, 10, "ten more frames")
    return site.vision.preview(stream).encoded == before


def test_live_pictures_show_and_stop_when_nobody_looks(page: Page, site: SmallSite) -> None:
    image = page.get_by_alt_text("Live picture of door")
    expect(image).to_be_visible()
    wait_until(lambda: image.evaluate("image => image.naturalWidth") == 640, 5, "the picture")
    expect(page.get_by_label("Stream door")).to_contain_text("24.6 of 25 frames/s")
    encoded = site.vision.preview("door").encoded
    wait_until(lambda: site.vision.preview("door").encoded > encoded + 3, 5, "more pictures")

    page.get_by_role("tab", name="People").click()
    wait_until(lambda: at_rest(site), 10, "the pictures to stop in another section")
    page.get_by_role("tab", name="Live").click()
    expect(image).to_be_visible()

    page.evaluate("Object.defineProperty(document, 'hidden', { value: true, configurable: true })")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    wait_until(lambda: at_rest(site), 10, "the pictures to stop in a hidden tab")
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    expect(image).to_be_visible()

    page.get_by_label("Stream door").get_by_role("button", name="Pause").click()
    wait_until(lambda: at_rest(site), 10, "the paused picture to stop")
    wait_until(lambda: not at_rest(site, "yard"), 10, "pictures of the other stream")


def test_an_event_is_on_the_page_within_a_second(page: Page, site: SmallSite) -> None:
    expect(page.get_by_text("Nothing has happened yet")).to_be_visible()
    first = page.get_by_role("list", name="Events").get_by_role("listitem").first

    def within_a_second(number: int) -> bool:
        began = time.monotonic()
        site.outbox.append("event", [face(name=f"Person {number}")])
        expect(first).to_contain_text(f"Person {number} arrived at door")
        return time.monotonic() - began < 1.0

    assert any(map(within_a_second, range(20))), "a loaded machine may be late, but not twenty times in a row"
    now = time.time()
    site.outbox.append("event", [face("end", cluster="u-3f9a21", started_at=now - 12, ended_at=now)])
    expect(first).to_contain_text("Unknown u-3f9a21 left door after 12 s")
    site.outbox.append("event", [face("end", "Ada", "inbox", started_at=now, ended_at=now, reason=None)])
    expect(first).to_contain_text("Ada is on a photograph of inbox")
    site.outbox.append(
        "event", [Event("yard", "stream", {"state": "failed", "code": "STREAM_TIMEOUT", "detail": "no frame for 10 s"}, now, 1)]
    )
    expect(first).to_contain_text("yard has failed (STREAM_TIMEOUT)")
    page.get_by_label("Kind").select_option("stream")
    expect(page.locator("#events li")).to_have_count(1)


def test_older_events_are_loaded_on_demand(page: Page, site: SmallSite) -> None:
    site.outbox.append("event", [face(name=f"person {number}") for number in range(120)])
    page.reload()
    expect(page.locator("#events li")).to_have_count(50)
    page.route("**/events?*cursor=*", lambda route: route.fulfill(status=500, json={"title": "The outbox cannot be read"}))
    page.get_by_role("button", name="Load older events").click()
    expect(page.locator("#events-empty")).to_contain_text("The outbox cannot be read")
    page.unroute("**/events?*cursor=*")
    for count in (100, 120):
        page.get_by_role("button", name="Load older events").click()
        expect(page.locator("#events li")).to_have_count(count)
    expect(page.get_by_role("button", name="Load older events")).to_be_hidden()
    expect(page.locator("#events-empty")).to_be_hidden()
    site.outbox.append("event", [face(name=f"person {number}") for number in range(120, 620)])
    expect(page.locator("#events li").first).to_contain_text("person 619", timeout=30_000)
    expect(page.locator("#events li")).to_have_count(500)
    for count in (550, 600, 620):
        page.get_by_role("button", name="Load older events").click()
        expect(page.locator("#events li")).to_have_count(count)
    expect(page.get_by_role("button", name="Load older events")).to_be_hidden()
    expect(page.locator("#events li").last).to_contain_text("person 0")


def test_markup_in_a_name_stays_text_everywhere(page: Page, site: SmallSite) -> None:
    site.vision.faces.create(ATTACK, ATTACK, None)
    site.vision.faces.unknown[ATTACK] = {"id": ATTACK, "sightings": 1, "created_at": 0.0, "seen_at": time.time()}
    site.outbox.append("event", [face(name=ATTACK), Event("door", "other", {"text": ATTACK}, time.time(), 1)])
    expect(page.locator("#events li").filter(has_text=f"{ATTACK} arrived at door")).to_be_visible()
    page.get_by_role("tab", name="People").click()
    expect(page.get_by_role("heading", name=ATTACK)).to_have_count(2)
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Edit {ATTACK}")
    assert page.locator("img[src='x']").count() == 0


def test_a_person_is_added_edited_and_erased(page: Page, site: SmallSite) -> None:
    wait_until(lambda: site.vision.preview("door").snapshot(), 5, "a frame")
    good = {"name": "ada.jpg", "mimeType": "image/jpeg", "buffer": site.vision.preview("door").snapshot()}
    bad = {"name": "wall.jpg", "mimeType": "image/jpeg", "buffer": b"too small"}
    page.get_by_role("tab", name="People").click()
    expect(page.get_by_text("Nobody is enrolled yet")).to_be_visible()
    page.get_by_role("button", name="Add a person").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("Ada Lovelace")
    dialog.get_by_label("Consent").fill("signed form")
    dialog.get_by_label("Erase by itself on").fill("2099-05-03")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_have_text("Choose at least one picture.")
    dialog.get_by_label("Pictures").set_input_files([bad])
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_contain_text("not taken: no face was found")
    expect(dialog.get_by_role("alert")).to_contain_text("nobody was saved")
    assert site.vision.faces.records == {}
    dialog.get_by_label("Pictures").set_input_files([good])
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.locator(".verdict.good")).to_have_text("taken")
    dialog.get_by_role("button", name="Close").click()

    card = page.locator("#identities article")
    expect(card).to_contain_text("1 picture · until 3 May 2099")
    expect(card).to_contain_text("Consent: signed form")
    (before,) = (dict(record) for record in site.vision.faces.records.values())
    card.get_by_role("button", name="Edit").click()
    expect(page.get_by_role("dialog").get_by_label("Erase by itself on")).to_have_value("2099-05-03")
    page.get_by_role("dialog").get_by_label("Name").fill("Countess Lovelace")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(card.get_by_role("heading")).to_have_text("Countess Lovelace")
    assert list(site.vision.faces.records.values()) == [{**before, "name": "Countess Lovelace"}]
    card.get_by_role("button", name="Edit").click()
    page.get_by_role("dialog").get_by_label("Consent").fill("withdrawn")
    page.get_by_role("dialog").get_by_label("Erase by itself on").fill("")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(card).to_contain_text("1 picture · does not expire")
    expect(card).to_contain_text("Consent: withdrawn")
    card.get_by_role("button", name="Erase").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert len(site.vision.faces.records) == 1
    card.get_by_role("button", name="Erase").click()
    page.get_by_role("dialog").get_by_role("button", name="Erase").click()
    expect(page.get_by_text("Nobody is enrolled yet")).to_be_visible()
    assert site.vision.faces.records == {}


def test_enrolling_from_the_live_picture(page: Page, site: SmallSite) -> None:
    page.get_by_role("button", name="Add a person from the picture of door").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("snapshot of door.jpg")
    dialog.get_by_label("Name").fill("Grace Hopper")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_have_count(0)
    (record,) = site.vision.faces.records.values()
    assert (record["name"], record["pictures"]) == ("Grace Hopper", 1)


def test_an_unknown_visitor_is_named_and_another_forgotten(page: Page, site: SmallSite) -> None:
    for name in ("u-111111", "u-222222"):
        site.vision.faces.unknown[name] = {"id": name, "sightings": 2, "created_at": time.time(), "seen_at": time.time()}
    page.get_by_role("tab", name="People").click()
    page.locator("#clusters article").filter(has_text="u-111111").get_by_role("button", name="Name").click()
    page.get_by_role("dialog").get_by_label("Name").fill("The Postman")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="The Postman")).to_be_visible()
    page.locator("#clusters article").filter(has_text="u-222222").get_by_role("button", name="Forget").click()
    page.get_by_role("dialog").get_by_role("button", name="Forget").click()
    expect(page.get_by_text("No unknown visitor at the moment")).to_be_visible()


def test_who_is_this(page: Page, site: SmallSite) -> None:
    page.get_by_role("tab", name="People").click()
    page.get_by_role("button", name="Who is this?").click()
    picture = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8picture"}
    page.get_by_role("dialog").get_by_label("Picture").set_input_files([picture])
    page.get_by_role("dialog").get_by_role("button", name="Look").click()
    expect(page.get_by_role("dialog")).to_contain_text("undecided · face at 10, 20 · distance 0.31")
    site.vision.faces.create("Ada Lovelace", "", None)
    page.get_by_role("dialog").get_by_role("button", name="Look").click()
    expect(page.get_by_role("dialog")).to_contain_text("Ada Lovelace · face at 10, 20 · distance 0.31")


def test_system_shows_streams_engines_outbox_and_host(page: Page, site: SmallSite) -> None:
    site.outbox.append("event", [face()])
    page.get_by_role("tab", name="System").click()
    expect(page.get_by_role("row", name="yard running")).to_contain_text("25.0 of 25.0")
    expect(page.locator("#engines")).to_contain_text("boxes overlap by 98.9 % of FP32 on 4 pictures")
    expect(page.locator("#engines")).to_contain_text("bf16: templates differ by 0.400, 0.100 is allowed")
    expect(page.get_by_role("row", name="event 1")).to_be_visible()
    expect(page.locator("#outbox")).to_contain_text("Connected to 127.0.0.1:1883")
    expect(page.locator("#host")).to_contain_text("5.0 GiB")
    page.get_by_role("link", name="REST interface").click()
    expect(page.get_by_text("/api/1/identities/{identity}/images", exact=True)).to_be_visible()


def test_the_page_says_when_vision_is_not_running_and_recovers(page: Page, site: SmallSite) -> None:
    site.stop_vision()
    expect(page.get_by_role("alert")).to_contain_text("The vision process does not answer")
    expect(page.locator("#vision-state")).to_have_text("vision down")
    expect(page.get_by_label("Stream door")).to_contain_text("no answer")
    site.outbox.append("event", [face(name="Ada Lovelace")])
    expect(page.locator("#events")).to_contain_text("Ada Lovelace arrived at door")
    site.start_vision()
    expect(page.locator("#vision-state")).to_have_text("vision running")
    image = page.get_by_alt_text("Live picture of door")
    expect(image).to_be_visible()
    wait_until(lambda: image.evaluate("image => image.naturalWidth") == 640, 8, "the picture")


def test_sections_by_keyboard(page: Page) -> None:
    page.get_by_role("tab", name="Live").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="People")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="People")).to_be_visible()
    expect(page.get_by_role("tabpanel", name="Live")).to_be_hidden()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_label("Name")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_phone_needs_no_sideways_scrolling(browser: Browser, site: SmallSite, tmp_path: Path) -> None:
    site.vision.faces.create("A person with a rather long name that-has-no-good-place-to-break-" + "x" * 30, "a note", None)
    site.outbox.append("event", [face(name="x" * 90), Event("door", "other", {"text": "y" * 200}, time.time(), 1)])
    for scheme in ("light", "dark"):
        context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme=scheme)
        page = context.new_page()
        for section in ("live", "people", "system"):
            page.goto(f"{site.server.url}#/{section}")
            expect(page.get_by_role("tabpanel")).to_be_visible()
            expect(page.locator({"live": "#events li", "people": "#identities h3", "system": "#host h3"}[section]).first).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, section
            assert len(page.screenshot(path=tmp_path / f"{section}-{scheme}.png")) > 5000
        assert (
            page.evaluate("getComputedStyle(document.body).backgroundColor")
            == {"light": "rgb(244, 246, 246)", "dark": "rgb(15, 21, 21)"}[scheme]
        )
        context.close()


def test_login_over_tls(browser: Browser, tmp_path: Path) -> None:
    pair = Authority(tmp_path / "tls").server()
    login = LoginSettings(username="keeper", password_hash=hash_password("correct horse"))
    web = WebSettings(port=0, tls=WebTlsSettings(cert_file=pair.cert, key_file=pair.key), login=login)
    with SmallSite(tmp_path / "state", web) as site:
        context = browser.new_context(ignore_https_errors=True)
        page = context.new_page()
        page.goto(site.server.url)
        expect(page).to_have_url(f"{site.server.url}login")
        page.get_by_label("User").fill("keeper")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("Wrong user or password.")
        page.get_by_label("Password").fill("correct horse")
        page.keyboard.press("Enter")
        expect(page).to_have_url(site.server.url)
        expect(page.get_by_alt_text("Live picture of door")).to_be_visible()
        assert "almena" not in page.evaluate("document.cookie")
        page.get_by_role("button", name="Log out").click()
        expect(page).to_have_url(f"{site.server.url}login")
        page.goto(site.server.url)
        expect(page).to_have_url(f"{site.server.url}login")
        context.close()
