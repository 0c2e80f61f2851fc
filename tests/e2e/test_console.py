"""The hub's console in a real browser: real hub, store and broker."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.fakes.small_hub import PASSWORD, SmallHub, face, reader, reply, small_hub
from tests.fakes.watched import watched
from tests.waiting import wait_until

ATTACK = "<img src=x onerror=alert(1)>"
INHERITED = "constructor"
"""What every object of a script has."""
OBJECT = {"onclick": ATTACK, "href": "javascript:alert(1)", "text": ATTACK}
STUDY = {"item": "a" * 32, "view": ATTACK, "threshold": 0.4, "abstained": None, "heat_map": True, "timings": {}}
PAGES = (
    "fleet",
    "events",
    "faces",
    "studies",
    "alerts",
    "identities",
    "accounts",
    "refused",
    "audit",
    *(f"device/evil/{tab}" for tab in ("now", "charts", "events", "pictures", "losses", "commands", "settings")),
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallHub]:
    with small_hub(tmp_path_factory.mktemp("hub")) as hub:
        for device in ("cam-1", "cam-2"):
            hub.birth(device, models={"faces.detector": "centerface@1"})
            hub.sample(
                device, system={"cpu_percent": 41.0, "temperatures_c": {"cpu": 52.5}}, vision={"state": "up", "streams": [stream("door")]}
            )
        hub.birth("cam-3", state="stopped")
        evil(hub)
        hub.stored("devices", 4, "devices")
        hub.stored("events?device=evil", 8, "events")
        yield hub


def stream(name: str, state: str = "running", **changes: Any) -> dict[str, Any]:
    return {"stream": name, "state": state, "code": "", "detail": "", "processed_per_second": 24.8, "expected_per_second": 25.0, **changes}


def evil(hub: SmallHub) -> None:
    """A device that tries every field that is its own."""
    hub.birth("evil", agent=ATTACK, models={ATTACK: ATTACK}, boot_id=ATTACK)
    hub.devices.say(
        "almena/1/evil/up/reported",
        {
            "v": 1,
            "state": {"engines": [{"model": OBJECT, "why": OBJECT, "backend": OBJECT}, None, ATTACK], "settings": OBJECT},
            "errors": [ATTACK],
        },
    )
    broken: dict[str, Any] = {**stream("door", last_frame_at=1e300), "state": OBJECT}
    streams = [stream(ATTACK, "failed", code=ATTACK, detail=ATTACK), broken, stream("hall", INHERITED), None]
    outbox = {"event": {"pending": 1, "alarm": ATTACK}, ATTACK: OBJECT}
    hub.sample("evil", vision={"state": "up", "streams": streams}, outbox=outbox, system={"cpu_percent": 5.0}, missing={ATTACK: OBJECT})
    hub.event("evil", "face", face(ATTACK))
    hub.event("evil", "face", face(track=ATTACK, cluster=ATTACK, started_at=1e11, reason="left"), model=ATTACK, host=ATTACK)
    hub.event("evil", "stream", {"state": ATTACK, "code": ATTACK, "detail": ATTACK})
    hub.event(
        "evil", "study", {**STUDY, "decision": ATTACK, "positive": ATTACK, "scores": {ATTACK: 0.5}, "modality": ATTACK, "reason": ATTACK}
    )
    shown = {"label": ATTACK, "probabilities": {ATTACK: 1.0}, "positive": None, "threshold": None, "frames": 1, "reason": None}
    hub.event("evil", "classification", {"type": "new", "track": ATTACK, "started_at": -1e10, "ended_at": None, **shown})
    hub.event("evil", "other", {"text": ATTACK, "nested": OBJECT})
    hub.event("evil", "stream", {"state": INHERITED, "code": "", "detail": ""})
    hub.event("evil", INHERITED, {"type": INHERITED})
    hub.devices.say("almena/1/evil/up/event/door/face", {ATTACK: ATTACK, "id": ATTACK})
    for reason in (ATTACK, INHERITED):
        lost = {"lane": ATTACK, "spool": ATTACK, "reason": reason, "count": 3, "ranges": [], "since": 1.0, "until": 2.0}
        hub.row("evil", "loss", "loss", lost)


@pytest.fixture
def page(browser: Browser, hub: SmallHub) -> Iterator[Page]:
    with reader(browser, hub) as page:
        yield page


def test_the_fleet_is_searched_filtered_and_opened_by_keyboard(page: Page) -> None:
    rows = page.get_by_role("table", name="Devices").locator("tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.filter(has_text="cam-1")).to_contain_text("52.5 °C")
    page.keyboard.press("/")
    page.keyboard.type("cam-")
    expect(rows).to_have_count(3)
    page.get_by_role("link", name="stopped").click()
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("cam-3")
    page.go_back()
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Device").focus()
    page.keyboard.press("Enter")
    expect(rows.last).to_contain_text("cam-3")
    expect(page.get_by_role("button", name="Device")).to_be_focused()
    page.get_by_role("link", name="cam-1").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="cam-1")).to_be_visible()
    expect(page.get_by_role("table", name="Streams")).to_contain_text("24.8")
    page.get_by_role("link", name="Charts").press("Enter")
    chart = page.get_by_role("img", name="Temperature: now 52.5 °C")
    chart.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("figure").filter(has=chart).locator(".reading")).to_contain_text("52.5 °C · ")


def test_a_page_asks_for_few_files_and_for_each_once(hub: SmallHub) -> None:
    names = re.findall(r'(?:href|src)="(/static/[^"]+)"', hub.client.get(hub.url).text)
    assert 3 <= len(set(names)) <= 5
    for name in names:
        packed = hub.client.get(f"{hub.url}{name[1:]}")
        assert (packed.status_code, packed.headers["content-encoding"]) == (200, "gzip")
        assert "immutable" in packed.headers["cache-control"]
        assert hub.client.get(f"{hub.url}{name[1:]}", headers={"Accept-Encoding": "identity"}).content == packed.content


def test_a_device_that_turns_is_counted_at_once(page: Page, hub: SmallHub) -> None:
    for asked in ("fleet", "devices?*"):
        page.route(f"**/api/v1/{asked}", once())
    page.reload()
    chip = page.get_by_role("link", name="1 stopped")
    expect(chip).to_be_visible()
    expect(page.get_by_role("table", name="Devices").locator("tbody tr")).to_have_count(4)
    hub.birth("cam-3")
    expect(chip).to_have_count(0)
    hub.birth("cam-3", state="stopped")
    expect(chip).to_be_visible()
    page.unroute_all(behavior="ignoreErrors")


def once() -> Callable[[Route], None]:
    """Lets the first request pass; the others get no answer."""
    passed: list[Route] = []

    def handle(route: Route) -> None:
        if not passed:
            passed.append(route)
            route.continue_()

    return handle


def test_nothing_that_a_device_says_becomes_markup(page: Page) -> None:
    for path in PAGES:
        page.goto(f"{page.url.partition('#')[0]}#/{path}")
        expect(page.locator("main")).to_contain_text("evil" if path.startswith("device") or path in ("fleet", "events", "studies") else "")
        for details in page.locator("details summary").all():
            details.click()
        assert page.locator("img[src=x], main [onclick], main a[href^=javascript], main .empty.bad").count() == 0, path
    page.goto(f"{page.url.partition('#')[0]}#/fleet")
    expect(page.locator("tr[data-device=evil]")).to_contain_text(ATTACK)
    heights = [pill.bounding_box() for pill in page.locator(".state .pill").all()]
    assert all(box and box["height"] < 30 for box in heights), "a state is one line, however much else a device says"
    page.goto(f"{page.url.partition('#')[0]}#/device/evil/now")
    expect(page.get_by_role("table", name="Streams")).to_contain_text(ATTACK)
    expect(page.get_by_role("table", name="Streams")).to_contain_text(INHERITED)
    page.goto(f"{page.url.partition('#')[0]}#/device/evil/losses")
    expect(page.get_by_role("table", name="Losses")).to_contain_text(INHERITED)
    page.goto(f"{page.url.partition('#')[0]}#/events?device=evil")
    expect(page.locator("ol.events li")).to_have_count(8)
    expect(page.locator("ol.events")).to_contain_text(f"{ATTACK} arrived at door")
    page.goto(f"{page.url.partition('#')[0]}#/refused")
    expect(page.get_by_role("table", name="Refused messages")).to_contain_text(ATTACK)


def test_an_event_is_there_within_a_second_and_found_again(page: Page, hub: SmallHub) -> None:
    page.get_by_role("link", name="Events", exact=True).click()
    first = page.get_by_role("list", name="Events").get_by_role("listitem").first
    expect(first).to_be_visible()

    def within_a_second(number: int) -> bool:
        began = time.monotonic()
        hub.event("cam-2", "face", face(f"Person {number}"))
        expect(first).to_contain_text(f"Person {number} arrived at door")
        return time.monotonic() - began < 1.0

    assert any(map(within_a_second, range(20))), "a loaded machine may be late, but not twenty times in a row"
    page.get_by_label("Who or what").fill("Person 0")
    expect(page.locator("ol.events li")).to_have_count(1)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download as CSV").click()
    assert download.value.path().read_text().count("Person 0") == 1
    page.get_by_label("When").select_option("604800")
    expect(page.locator("ol.events li")).to_have_count(1)
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator("ol.events li").nth(5)).to_be_visible()


def test_of_a_flood_of_events_none_is_left_out(page: Page, hub: SmallHub) -> None:
    page.goto(f"{hub.url}#/events?device=flood")
    shown = page.locator("ol.events li")
    expect(page.get_by_text("Nothing like that has happened")).to_be_visible()
    for number in range(320):
        hub.event("flood", "face", face(f"Person {number}"))
    expect(shown.first).to_contain_text("Person 319 arrived at door", timeout=30_000)
    older = page.get_by_role("button", name="Show older ones")
    while older.is_visible():
        before = shown.count()
        older.click()
        expect(shown).not_to_have_count(before, timeout=30_000)
    expect(shown).to_have_count(320)


HIDE = "Object.defineProperty(document, 'hidden', { value: true, configurable: true })"
TURNED = "document.dispatchEvent(new Event('visibilitychange'))"


def test_a_hidden_tab_holds_no_connection_and_catches_up(page: Page, hub: SmallHub) -> None:
    page.get_by_role("link", name="Events", exact=True).click()
    page.evaluate(f"{HIDE}; {TURNED}")
    for _ in range(6):
        more = page.context.new_page()
        more.goto(hub.url)
        expect(more.locator("#live")).to_have_class("pill good")
        more.evaluate(f"{HIDE}; {TURNED}")
    hub.event("cam-2", "face", face("Dorothea"))
    expect(more.locator("#live")).to_have_class("pill good")
    wait_until(lambda: "Dorothea" in hub.client.get("events?device=cam-2").text, 20, "the event to be stored")
    assert page.get_by_text("Dorothea arrived at door").count() == 0
    page.evaluate(f"delete document.hidden; {TURNED}")
    expect(page.get_by_text("Dorothea arrived at door")).to_be_visible()


def test_visits_are_still_there_when_the_list_is_loaded_anew(page: Page, hub: SmallHub) -> None:
    hub.event("cam-2", "face", face("Edmund"))
    page.get_by_role("link", name="Faces", exact=True).click()
    expect(page.get_by_text("Edmund").first).to_be_visible(timeout=30_000)
    page.evaluate(f"{HIDE}; {TURNED}")
    hub.event("cam-2", "face", face("Frederica", track="another"))
    wait_until(lambda: "Frederica" in hub.client.get("events?device=cam-2").text, 30, "the event to be stored")
    page.evaluate(f"delete document.hidden; {TURNED}")
    expect(page.get_by_text("Frederica").first).to_be_visible(timeout=30_000)
    expect(page.get_by_text("Edmund").first).to_be_visible(timeout=30_000)


def test_a_store_that_takes_nothing_is_on_every_page(page: Page) -> None:
    down = {"ready": False, "store": False, "broker": True, "trouble": "database or disk is full"}
    page.route("**/readyz", lambda route: route.fulfill(status=503, json=down))
    page.evaluate(TURNED)
    expect(page.get_by_text("stores nothing at the moment: database or disk is full")).to_be_visible()
    page.unroute("**/readyz")
    page.evaluate(TURNED)
    expect(page.locator("#health")).to_be_hidden()


def test_what_is_not_there_says_what_to_do(page: Page, hub: SmallHub) -> None:
    page.goto(f"{hub.url}#/device/nobody")
    expect(page.get_by_text("There is no such device: it was removed")).to_be_visible()
    expect(page.get_by_role("link", name="Charts")).to_be_hidden()
    page.goto(f"{hub.url}#/{INHERITED}")
    expect(page.get_by_role("heading", name="Fleet")).to_be_visible()
    page.route("**/api/v1/audit*", lambda route: route.abort())
    page.get_by_role("link", name="Audit").click()
    expect(page.get_by_text("The hub does not answer: see that it runs, and that this machine reaches it.")).to_be_visible()


def test_a_visit_is_one_entry_from_its_arrival_to_its_end(page: Page, hub: SmallHub) -> None:
    page.get_by_role("link", name="Faces").click()
    visits = page.locator("ol.visits > li").filter(has_text="Grace")
    hub.event("cam-1", "face", face("Grace", track="t-9"))
    expect(visits).to_contain_text("there now")
    hub.event("cam-1", "face", face("Grace", "end", track="t-9"))
    expect(visits).not_to_contain_text("there now")
    expect(visits).to_have_count(1)


def test_a_command_is_sent_and_its_reply_shown(page: Page, hub: SmallHub) -> None:
    page.goto(f"{hub.url}#/device/cam-1/commands")
    page.get_by_role("button", name="Send: Ask how it is").click()
    row = page.get_by_role("table", name="Commands").locator("tbody tr").first
    expect(row).to_contain_text("waits for the device")
    (heard,) = wait_until(lambda: hub.devices.on("down/command/status"), 30, "the command")
    hub.devices.say(*reply("cam-1", heard.data, detail="two streams run"))
    expect(row).to_contain_text("done: two streams run")


def test_settings_are_compared_checked_and_sent(page: Page, hub: SmallHub) -> None:
    page.goto(f"{hub.url}#/device/cam-2/settings")
    wanted = page.get_by_label("Desired state as JSON")
    expect(wanted).to_have_value("{}")
    wanted.fill('{"telemetry": {"period_s": "soon"}}')
    page.get_by_role("button", name="Show what would change").click()
    expect(page.locator("p.error")).to_contain_text("telemetry.period_s")
    wanted.fill('{"telemetry": {"period_s": 7}}')
    page.get_by_role("button", name="Show what would change").click()
    expect(page.locator(".diff")).to_contain_text("telemetry.period_s")
    assert hub.devices.on("cam-2/down/desired") == []
    page.get_by_role("button", name="Send …").click()
    page.get_by_role("dialog").get_by_role("button", name="Send").click()
    wait_until(
        lambda: [heard.data["state"] for heard in hub.devices.on("cam-2/down/desired")] == [{"telemetry": {"period_s": 7}}],
        30,
        "the device to hear of it",
    )
    expect(page.get_by_text("not yet as desired", exact=True)).to_be_visible()
    said = {"v": 1, "state": {}, "errors": []}
    hub.devices.say("almena/1/cam-2/up/reported", {**said, "refused": 1, "errors": ["stream attic: no camera"]})
    expect(page.get_by_role("alert").filter(has_text="goes on as before")).to_contain_text("stream attic: no camera")
    hub.devices.say("almena/1/cam-2/up/reported", {**said, "trying": 1})
    expect(page.get_by_text("is being tried", exact=True)).to_be_visible()
    hub.devices.say("almena/1/cam-2/up/reported", {**said, "revision": 1})
    expect(page.get_by_text("as desired", exact=True)).to_be_visible()
    expect(page.get_by_text("Revision 1 holds")).to_be_visible()


def test_a_stream_is_restarted_and_a_model_tuned(page: Page, hub: SmallHub) -> None:
    state = {"streams": {"yard": ["faces"]}, "engines": [{"model": "centerface@0918"}]}
    hub.devices.say("almena/1/cam-2/up/reported", {"v": 1, "revision": 1, "state": state, "errors": []})
    page.goto(f"{hub.url}#/device/cam-2/commands")
    wait_until(lambda: hub.get("devices/cam-2")["reported"]["state"] == state, 30, "the report")
    page.reload()
    expect(page.get_by_text("It speaks to the hub")).to_be_visible()
    page.get_by_role("button", name="Choose …: Restart a stream").click()
    expect(page.get_by_role("dialog").get_by_label("Stream")).to_have_value("yard")
    page.get_by_role("dialog").get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Choose …: Tune its models").click()
    page.get_by_role("dialog").get_by_label("Model").select_option("centerface")
    page.get_by_role("dialog").get_by_label("Seconds for each").fill("20")
    page.get_by_role("dialog").get_by_role("button", name="Send").click()
    (tune,) = wait_until(lambda: hub.devices.on("cam-2/down/command/tune"), 30, "the second command")
    (restart,) = hub.devices.on("cam-2/down/command/restart-stream")
    assert (restart.data["args"], tune.data["args"]) == ({"stream": "yard"}, {"model": "centerface", "budget_s": 20})
    hub.devices.say(*reply("cam-2", tune.data, result={"goes_on": ["centerface"], "done": []}))
    expect(page.get_by_role("table", name="Commands")).to_contain_text("It goes on; ask how it is")


def test_who_logs_in_comes_to_where_the_link_leads(browser: Browser, hub: SmallHub) -> None:
    with watched(browser, hub.url) as page:
        page.goto(f"{hub.url}#/events?device=evil")
        page.locator("#username").fill("ada")
        page.locator("#password").fill(PASSWORD)
        page.locator("#password").press("Enter")
        expect(page.locator("ol.events")).to_contain_text("evil")
        page.context.clear_cookies()
        page.get_by_role("link", name="Alerts").click()
        expect(page.locator("#username")).to_be_visible()
        assert page.url == f"{hub.url}login#/alerts"


def test_an_alert_is_seen_and_acknowledged(page: Page, hub: SmallHub) -> None:
    page.get_by_role("link", name="Alerts").click()
    page.get_by_role("button", name="Change: A camera shows a frozen picture").click()
    page.get_by_role("dialog").get_by_label("Seconds it must last").fill("0")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    hub.sample("cam-2", vision={"state": "up", "streams": [stream("yard", "frozen", code="STREAM_FROZEN", detail=ATTACK)]})
    alert = page.locator(".firing").filter(has_text="cam-2 · yard")
    expect(alert).to_contain_text(ATTACK)
    expect(page.get_by_role("link", name="not acknowledged")).to_be_visible()
    alert.get_by_role("button", name="Acknowledge").click()
    expect(alert).to_contain_text("Acknowledged by ada")
    page.get_by_role("link", name="Audit").click()
    expect(page.get_by_role("table", name="Audit")).to_contain_text("alert acknowledge")


def test_a_viewer_sees_and_changes_nothing(browser: Browser, page: Page, hub: SmallHub) -> None:
    page.get_by_role("link", name="Accounts").click()
    page.get_by_role("button", name="Add a person").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("bob")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_role("table", name="People")).to_contain_text("bob")
    page.get_by_role("button", name="Make a key").click()
    dialog.get_by_label("Name").fill("grafana")
    dialog.get_by_role("button", name="Make it").click()
    assert hub.client.get("me", headers={"Authorization": f"Bearer {dialog.locator('.secret').inner_text()}"}).json()["role"] == "viewer"
    dialog.get_by_role("button", name="Close").click()
    with reader(browser, hub, "bob") as other:
        expect(other.get_by_role("link", name="Events")).to_be_visible()
        assert other.get_by_role("link", name="Accounts").count() == 0
        other.goto(f"{hub.url}#/device/cam-1/commands")
        expect(other.get_by_role("heading", name="Sent before")).to_be_visible()
        assert other.get_by_role("button", name="Send").count() == 0
        other.get_by_role("button", name="Log out").click()
        expect(other.locator("#username")).to_be_visible()


def test_on_a_phone_in_spanish_and_at_night(browser: Browser, hub: SmallHub) -> None:
    with reader(browser, hub, viewport={"width": 390, "height": 844}, locale="es-ES", color_scheme="dark") as page:
        expect(page.locator("html")).to_have_attribute("lang", "es")
        expect(page.get_by_role("link", name="cam-1")).to_be_visible()
        expect(page.get_by_role("heading", level=1)).to_have_text("Flota")
        for path in PAGES:
            page.goto(f"{hub.url}#/{path}")
            expect(page.locator("main h1")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is wider than the phone"
        page.get_by_label("Idioma").select_option("en")
        expect(page.get_by_role("link", name="Fleet", exact=True).first).to_be_visible()
