"""The console's pages that keep a fleet in order: choosing, maintenance, removal, one's password; and a device that falls silent."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import insert, update

from fleet.store.database import connect, writing
from fleet.store.tables import alerts, devices
from tests.fakes.hub_store import message
from tests.fakes.small_hub import PASSWORD, SmallHub, reader, small_hub
from tests.waiting import wait_until

NEW = "a better horse battery"
SILENT = 1.5
"""A lease that ends while somebody looks."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallHub]:
    folder = tmp_path_factory.mktemp("hub")
    with small_hub(folder) as hub:
        for number in range(1, 4):
            hub.birth(f"cam-{number}", lease_s=600.0)
        hub.birth("mute-1")
        hub.birth("old-1", state="stopped")
        hub.birth("old-2", state="stopped")
        hub.birth("sim-1")
        simulated = {"simulated": True, "engines": [{"model": "centerface", "backend": "openvino", "precision": "int8"}]}
        hub.devices.say("almena/1/sim-1/up/reported", {"v": 1, "revision": None, "state": simulated, "errors": []})
        hub.stored("devices?search=openvino", 1, "devices")
        hub.stored("devices", 7, "devices")
        engine = connect(f"sqlite:///{folder}/hub.sqlite")
        with writing(engine) as connection:
            connection.execute(update(devices).where(devices.c.device == "sim-1").values(group="simulated"))
            now = time.time()
            over = {"device": "cam-1", "rule": "hot", "state": "resolved", "since": now - 60, "until": now - 1, "notified": {}}
            connection.execute(insert(alerts), [{**over, "detail": f"alert {number}"} for number in range(60)])
            sent = {"way": "email", "what": "firing", "at": now}
            stuck = {"way": "webhook:ops", "what": "firing", "since": now, "tries": 3, "again": now + 9, "why": "Connection refused"}
            told = {"sent": [sent], "pending": [stuck], "given_up": []}
            disk = {"detail": "its disk is 97 % full, the limit is 90 %", "notified": told}
            connection.execute(insert(alerts), {"device": "old-2", "rule": "disk", "state": "firing", "since": now, **disk})
        engine.dispose()
        yield hub


@pytest.fixture
def page(browser: Browser, hub: SmallHub) -> Iterator[Page]:
    with reader(browser, hub) as page:
        yield page


def test_devices_are_chosen_and_placed_together_by_keyboard(page: Page) -> None:
    rows = page.get_by_role("table", name="Devices").locator("tbody tr")
    for name in ("cam-1", "cam-2"):
        page.get_by_label(f"Choose {name}").press("Space")
    page.get_by_role("button", name="Site and group …").press("Enter")
    dialog = page.get_by_role("dialog", name="2 devices are chosen")
    dialog.get_by_label("Site").fill("yard")
    dialog.get_by_label("Site").press("Enter")
    expect(page.get_by_text("2 devices are changed")).to_be_visible()
    expect(dialog).to_be_hidden()
    page.get_by_label("Site").select_option("yard")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("yard")
    expect(page.locator(".chosen")).to_be_hidden()


def test_a_simulated_device_is_switched_off_from_the_first_page(page: Page, hub: SmallHub) -> None:
    page.get_by_role("button", name="Switch sim-1 off").click()
    expect(page.get_by_text("sim-1 is switched off for three minutes")).to_be_visible()
    wait_until(lambda: hub.devices.on("sim-1/down/command/misbehave"), 20, "the command")
    assert hub.devices.on("sim-1/down/command/misbehave")[0].data["args"] == {"fault": "off", "for_s": 180}


def test_who_falls_silent_goes_stale_and_then_offline_before_ones_eyes(page: Page, hub: SmallHub) -> None:
    state = page.locator("tr[data-device=mute-1] .state")

    def goes_stale_first() -> bool:
        hub.birth("mute-1")
        expect(state).to_have_text("online")
        hub.birth("mute-1", lease_s=SILENT)
        next_state = wait_until(lambda: (text := (state.text_content() or "").strip()) != "online" and text, 30, "another state")
        expect(state).to_have_text("offline")
        return next_state == "stale"

    assert any(goes_stale_first() for _ in range(5)), "a machine that stands still may hide it, but not five times in a row"


def test_maintenance_begins_and_ends(page: Page, hub: SmallHub) -> None:
    page.goto(f"{hub.url}#/device/cam-3")
    page.get_by_role("button", name="Maintenance …").click()
    page.get_by_role("dialog").get_by_label("Why").fill("new lens")
    page.get_by_role("dialog").get_by_role("button", name="Begin").click()
    expect(page.get_by_text("maintenance until")).to_be_visible()
    page.get_by_role("link", name="Alerts").click()
    expect(page.get_by_role("table", name="Maintenance")).to_contain_text("new lens")
    page.get_by_role("button", name="End it: cam-3").click()
    expect(page.get_by_text("Nobody works on the fleet")).to_be_visible()


def test_alerts_are_paged_and_filtered(page: Page, hub: SmallHub) -> None:
    page.goto(f"{hub.url}#/alerts")
    over = page.get_by_role("table", name="Alerts that are over").locator("tbody tr")
    expect(over).to_have_count(50)
    page.get_by_role("button", name="Show older ones").click()
    expect(over).to_have_count(60)
    page.locator("select[name=rule]").select_option("disk")
    expect(page.get_by_text("No alert is like that").first).to_be_visible()
    page.get_by_role("button", name="Clear filters").click()
    expect(over).to_have_count(50)


def test_an_alert_says_who_was_told_in_the_readers_language(browser: Browser, hub: SmallHub) -> None:
    with reader(browser, hub, locale="es-ES") as page:
        page.goto(f"{hub.url}#/alerts")
        alert = page.locator(".firing").filter(has_text="old-2")
        expect(alert).to_contain_text("su disco está al 97 %, el límite es 90 %")
        expect(alert).to_contain_text("Avisado: por correo, ")
        expect(alert).to_contain_text("Sin avisar (ops): Connection refused")


def test_a_device_is_removed(page: Page, hub: SmallHub) -> None:
    page.goto(f"{hub.url}#/device/cam-2")
    page.get_by_role("button", name="Remove …").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("dialog")).to_contain_text("would be back at once")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.goto(f"{hub.url}#/device/old-1")
    page.get_by_role("button", name="Remove …").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
    expect(page.get_by_role("link", name="old-1")).to_have_count(0)


def test_ones_own_password(browser: Browser, hub: SmallHub) -> None:
    hub.client.post("users", json={"name": "bob", "password": PASSWORD, "role": "viewer"}).raise_for_status()
    with reader(browser, hub, "bob") as page:
        page.get_by_role("button", name="bob").click()
        dialog = page.get_by_role("dialog", name="Change your password")
        dialog.get_by_label("Old password").fill("wrong horse battery")
        dialog.get_by_label("New password").fill(NEW)
        dialog.get_by_role("button", name="Save").click()
        expect(dialog).to_contain_text("The old password is wrong")
        dialog.get_by_label("Old password").fill(PASSWORD)
        dialog.get_by_role("button", name="Save").click()
        expect(page.get_by_text("your other sessions have ended")).to_be_visible()
        page.reload()
        expect(page.locator("#live")).to_have_class("pill good")


def test_what_is_missing_between_two_starts_of_a_device_is_shown_and_given_up(page: Page, hub: SmallHub) -> None:
    for spool, number in (("a" * 16, 1), ("a" * 16, 2), ("b" * 16, 6)):
        hub.devices.client.publish("almena/1/cam-3/up/event/cam/count", message(1, id=f"cam-3/{spool}/{number}"), 1)
    hub.stored("events?device=cam-3", 3, "events")
    page.goto(f"{hub.url}#/device/cam-3/losses")
    gap = page.get_by_role("table", name="Missing, not declared").locator("tbody tr")
    expect(gap).to_contain_text(re.compile("3.5"))
    expect(gap).to_contain_text("a" * 16)
    page.get_by_role("button", name="Give up …").click()
    page.get_by_role("dialog").get_by_role("button", name="Give up").click()
    expect(gap).to_have_count(0)
    expect(page.get_by_text("3 events are lost for good.")).to_be_visible()
