"""Keeping a fleet in order: many devices at once, removal, maintenance, refused messages, one's own password."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, select, update

from agent import wire
from agent.tls_settings import WebTlsSettings
from fleet import certificates
from fleet.alerts.herald import Herald
from fleet.alerts.rules import RULES, Facts, facts
from fleet.alerts.watch import Watch
from fleet.settings import AlertSettings, WebhookSettings
from fleet.store import Batch, Message, Store
from fleet.store.database import writing
from fleet.store.tables import alerts, devices, events, rollups, rules, samples
from tests.fakes.certificates import Authority
from tests.fakes.hub_api import PASSWORD, HubApi, Postbox
from tests.fakes.hub_store import EVENTS, SPOOL, StoredHub, message

API = "/api/v1"
HOUR = 3600.0


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubApi]:
    with HubApi(tmp_path_factory.mktemp("hub")) as one:
        for name in ("cam-1", "cam-2", "cam-3"):
            one.device(name, site="lab", engines=["centerface openvino fp32"])
        yield one


@pytest.fixture
def admin(hub: HubApi) -> httpx.Client:
    return hub.client("admin")


def test_many_devices_are_placed_at_once_and_found_by_their_engines(hub: HubApi, admin: httpx.Client) -> None:
    names = [f"sim-{number}" for number in range(900)]
    with writing(hub.engine) as connection:
        connection.execute(insert(devices), [{"device": name} for name in names])
    assert admin.patch(f"{API}/devices", json={"devices": [*names, "nobody"], "group": "doors"}).json() == {"changed": 900}
    assert admin.get(f"{API}/devices", params={"group": "doors", "limit": 1}).json()["total"] == 900
    assert admin.patch(f"{API}/devices", json={"devices": ["cam-1"], "site": "yard"}).json() == {"changed": 1}
    assert admin.get(f"{API}/fleet").json()["sites"] == ["lab", "yard"]
    assert admin.patch(f"{API}/devices", json={"devices": ["cam-1"]}).status_code == 422
    operator = hub.client("operator")
    hub.device("cam-9", site="vault")
    assert admin.put(f"{API}/sharing", json={"site": "moon", "enabled": True}).status_code == 404
    assert admin.put(f"{API}/sharing", json={"site": " vault ", "enabled": True}).is_success
    assert [one["site"] for one in admin.get(f"{API}/sharing").json()["sites"] if one["enabled"]] == ["vault"]
    for place, whom in ((f"{API}/devices", {"devices": ["cam-1"]}), (f"{API}/devices/cam-1", {})):
        assert operator.patch(place, json={**whom, "site": "vault"}).status_code == 403, "who joins a site that shares gets its people"
        assert operator.patch(place, json={**whom, "site": "yard"}).is_success
    assert admin.get(f"{API}/audit").json()["audit"][0]["target"] == "cam-1"
    assert admin.get(f"{API}/devices", params={"search": "OpenVINO"}).json()["total"] == 3


def said(topic: str, payload: bytes, *, retained: bool = False) -> Batch:
    batch = Batch()
    batch.take(Message(topic, payload, time.time(), retained))
    return batch


def test_a_removed_device_is_forgotten_until_it_speaks_again(hub: HubApi, admin: httpx.Client) -> None:
    birth = wire.encode(wire.Birth(state="online", session="s1", boot_id="b", agent="0.9", models={}, lease_s=90.0))
    store, now = Store(hub.engine), time.time()
    store.write(said("almena/1/cam-1/status", birth))
    store.write(said("almena/1/cam-1/up/event/cam/count", message(1, id="cam-1/00112233445566aa/1")))
    store.write(said("almena/1/cam-1/up/event/cam/count", message(1, id="cam-1/00112233445566aa/4")))
    with writing(hub.engine) as connection:
        connection.execute(insert(samples).values(device="cam-1", at=1.0, figures={}))
        rollup = {"device": "cam-1", "metric": "cpu_percent", "step": 60, "n": 1, "low": 1.0, "high": 1.0, "sum": 1.0}
        connection.execute(insert(rollups), [{**rollup, "bucket": 60 * number} for number in range(6000)])
    refused = admin.delete(f"{API}/devices/cam-1")
    assert (refused.status_code, "would be back at once" in refused.json()["detail"]) == (409, True)
    with writing(hub.engine) as connection:
        gone = {"seen_at": now - 1000, "desired_revision": 3, "desired_sent": 3, "desired": b'{"v":1,"revision":3,"state":{}}'}
        connection.execute(update(devices).where(devices.c.device == "cam-1").values(gone))
    hub.link.connected = False
    assert admin.delete(f"{API}/devices/cam-1").status_code == 409
    hub.link.connected = True
    assert admin.delete(f"{API}/devices/cam-1").status_code == 204
    assert hub.link.published[-1] == ("almena/1/cam-1/down/desired", None, True)
    assert admin.get(f"{API}/devices/cam-1").status_code == 404
    with hub.engine.connect() as connection:
        assert connection.execute(select(rollups)).first() is None
        assert connection.execute(select(samples)).first() is None
        assert len(connection.execute(select(events)).all()) == 2
    reported = wire.encode(wire.Reported(revision=3, state={}))
    store.write(said("almena/1/cam-1/status", birth, retained=True))
    store.write(said("almena/1/cam-1/up/reported", reported, retained=True))
    store.write(said("almena/1/cam-1/status", wire.encode(wire.Will(state="offline", session="s1", reason="lost"))))
    assert admin.get(f"{API}/devices/cam-1").status_code == 404, "what the broker has kept of it brings nobody back"
    store.write(said("almena/1/cam-1/status", birth))
    back = admin.get(f"{API}/devices/cam-1").json()
    assert (back["state"], back["site"], back["desired_revision"]) == ("online", "", None)
    assert admin.get(f"{API}/devices/cam-1/losses").json()["missing_total"] == 0, "what the one before has not sent is nobody's any more"
    store.write(said("almena/1/cam-1/up/event/cam/count", message(1, id="cam-1/00112233445566aa/2")))
    assert admin.get(f"{API}/devices/cam-1/losses").json()["total"] == 0
    assert admin.delete(f"{API}/devices/nobody").status_code == 404


def test_nobody_is_told_in_maintenance_and_of_what_lasts_after_it(hub: HubApi, admin: httpx.Client) -> None:
    now = time.time()
    told: list[Any] = []
    herald = Herald(hub.engine, AlertSettings(webhooks=(WebhookSettings(name="ops", url="http://127.0.0.1:1/"),)))
    herald._ways["webhook:ops"] = told.extend
    watch = Watch(hub.engine, Postbox(), herald, 5.0, grace_s=0.0)
    with writing(hub.engine) as connection:
        connection.execute(insert(rules).values(name="hot", enabled=True, threshold={}, for_s=0.0))
    body = {"kind": "site", "name": "lab", "ends": now + HOUR, "reason": "new camera"}
    window = admin.post(f"{API}/maintenance", json=body).json()["id"]
    assert admin.post(f"{API}/maintenance", json={**body, "name": "moon"}).status_code == 404
    assert admin.post(f"{API}/maintenance", json={**body, "ends": now - 1}).status_code == 422
    assert admin.get(f"{API}/devices/cam-1").json()["maintenance"] == body["ends"]

    def heat(**celsius: float) -> None:
        with writing(hub.engine) as connection:
            for name, value in celsius.items():
                values = {"figures": {"temperature_c": value}, "telemetry_at": time.time(), "seen_at": time.time()}
                connection.execute(update(devices).where(devices.c.device == name.replace("_", "-")).values(values))
        watch.look(time.time())
        herald.tell(time.time())

    heat(cam_1=99.0, cam_2=99.0)
    found = admin.get(f"{API}/alerts", params={"site": "lab", "rule": "hot"}).json()["alerts"]
    assert [(one["state"], one["maintenance"]) for one in found] == [("firing", True)] * 2
    assert (told, admin.get(f"{API}/fleet").json()["unacknowledged"]) == ([], 0)
    heat(cam_2=40.0)
    assert admin.delete(f"{API}/maintenance/{window}").status_code == 204
    heat(cam_1=99.0)
    assert [(one["device"], one["what"]) for one in told] == [("cam-1", "firing")], "of what came and went meanwhile nobody is told"
    assert admin.get(f"{API}/fleet").json()["unacknowledged"] == 1
    assert admin.get(f"{API}/alerts", params={"rule": "disk"}).json()["alerts"] == []
    page = admin.get(f"{API}/alerts", params={"limit": 1}).json()
    assert [one["device"] for one in admin.get(f"{API}/alerts", params={"before": page["next"]}).json()["alerts"]] != [
        one["device"] for one in page["alerts"]
    ]
    assert admin.get(f"{API}/maintenance").json() == {"maintenance": []}
    actions = [one["action"] for one in admin.get(f"{API}/audit").json()["audit"]]
    assert ("maintenance end" in actions, "maintenance begin" in actions) == (True, True)


def test_the_command_line_begins_and_ends_maintenance_and_removes_a_device(hub: HubApi) -> None:
    begins = time.time() + HOUR
    when = datetime.fromtimestamp(begins).isoformat()
    made = json.loads(hub.almena("maintenance", "begin", "site", "lab", "--hours", "2", "--begins", when, "--reason", "mast", "--json"))
    assert made["ends"] == pytest.approx(begins + 2 * HOUR)
    [window] = json.loads(hub.almena("maintenance", "list", "--json"))
    assert (window["id"], window["kind"], window["name"], window["reason"]) == (made["id"], "site", "lab", "mast")
    assert "mast" in hub.almena("maintenance", "list")
    assert "is over" in hub.almena("maintenance", "end", str(made["id"]))
    assert "no maintenance" in hub.almena("maintenance", "list")
    assert f"there is no maintenance {made['id']}" in hub.almena("maintenance", "end", str(made["id"]), code=2)
    assert "there is no site moon" in hub.almena("maintenance", "begin", "site", "moon", code=2)
    assert "'moon' is not one of" in hub.almena("maintenance", "begin", "moon", "lab", code=2)
    assert "would be back at once" in hub.almena("remove", "cam-1", "--yes", code=1)
    with writing(hub.engine) as connection:
        connection.execute(update(devices).values(seen_at=1.0))
    assert "Aborted" in hub.almena("remove", "cam-1", code=1)
    assert json.loads(hub.almena("remove", "cam-1", "--yes", "--json")) == {"removed": "cam-1"}
    assert "there is no device cam-1" in hub.almena("remove", "cam-1", "--yes", code=2)


def test_refused_messages_are_shown_page_by_page(hub: HubApi, admin: httpx.Client) -> None:
    store = Store(hub.engine)
    for number in range(3):
        store.write(said(f"almena/1/cam-{number}/up/event/door/face", b'{"<b>": \xff' + bytes([48 + number])))
    page = admin.get(f"{API}/dead-letters", params={"limit": 2}).json()
    rest = admin.get(f"{API}/dead-letters", params={"limit": 2, "before": page["next"]}).json()
    found = [*page["dead_letters"], *rest["dead_letters"]]
    assert ([one["device"] for one in found], rest["next"]) == (["cam-2", "cam-1", "cam-0"], None)
    assert found[0]["payload"] == '{"<b>": �2'
    assert found[0]["reason"]
    assert [one["device"] for one in admin.get(f"{API}/dead-letters", params={"device": "cam-1"}).json()["dead_letters"]] == ["cam-1"]
    assert admin.get(f"{API}/dead-letters", params={"before": "x|y"}).status_code == 422


def test_people_change_their_own_password(hub: HubApi) -> None:
    hub.accounts.add_user("test", "ada", PASSWORD, "viewer")
    with httpx.Client(base_url=hub.server.url, timeout=60) as here, httpx.Client(base_url=hub.server.url, timeout=60) as there:
        for browser in (here, there):
            browser.post(f"{API}/login", json={"username": "ada", "password": PASSWORD}).raise_for_status()
        change = lambda old, new: here.put(f"{API}/me/password", json={"old": old, "new": new})  # noqa: E731
        assert change("wrong", "another good one").json()["title"] == "The old password is wrong"
        assert change(PASSWORD, "short").status_code == 422
        assert change(PASSWORD, "another good one").status_code == 204
        assert (here.get(f"{API}/me").status_code, there.get(f"{API}/me").status_code) == (200, 401)
        assert there.post(f"{API}/login", json={"username": "ada", "password": PASSWORD}).status_code == 401
        assert there.post(f"{API}/login", json={"username": "ada", "password": "another good one"}).status_code == 204
    assert hub.client("admin").put(f"{API}/me/password", json={"old": PASSWORD, "new": PASSWORD}).status_code == 403
    journal = json.dumps(hub.client("admin").get(f"{API}/audit").json())
    assert "another good one" not in journal


def test_certificates_that_end_soon_are_found_on_devices_and_on_the_hub(hub: HubApi, tmp_path: Any) -> None:
    now, rule = time.time(), RULES["certificate"]
    find = lambda one: [(found.stream, found.detail) for found in rule.check(one, rule.limits, lambda _: False)]  # noqa: E731
    soon, late = ({"mqtt": {"certificate_ends_at": now + days * 86400}} for days in (3, 20))
    assert find(facts("cam", "online", now, soon, {}, 0)) == [("", "its certificate ends in 3.0 days")]
    assert find(facts("cam", "online", now, late, {}, 0)) == find(facts("cam", "online", now, {"mqtt": {}}, {}, 0)) == []
    pair = Authority(tmp_path).server()
    tls = WebTlsSettings(cert_file=pair.cert, key_file=pair.key)
    settings = hub.settings.model_copy(update={"web": hub.settings.web.model_copy(update={"tls": tls})})
    ends = certificates.Certificates(settings, lambda: now - 5)()
    assert set(ends) == {"web.tls", "broker"}
    assert ends["web.tls"] > now
    assert find(Facts("hub", "online", now, certificates=ends))[-1] == ("broker", "its certificate has ended")
    herald = Herald(hub.engine, AlertSettings())
    with writing(hub.engine) as connection:
        connection.execute(insert(rules).values(name="certificate", enabled=True, threshold={}, for_s=0.0))
    Watch(hub.engine, Postbox(), herald, 5.0, lambda: {"broker": now}, grace_s=0.0).look(now)
    with hub.engine.connect() as connection:
        assert [(row.device, row.stream) for row in connection.execute(select(alerts))] == [("hub", "broker")]


def test_an_alert_is_acknowledged_once_and_while_it_fires(hub: HubApi, admin: httpx.Client) -> None:
    with writing(hub.engine) as connection:
        row = {"device": "cam-1", "rule": "hot", "state": "firing", "since": time.time()}
        number = connection.execute(insert(alerts).values(row)).inserted_primary_key[0]
    address = f"{API}/alerts/{number}/acknowledge"
    assert [admin.post(address).status_code for _ in range(2)] == [204, 204]
    with writing(hub.engine) as connection:
        connection.execute(update(alerts).values(state="resolved", until=1.8e9))
    over = admin.post(address)
    assert (over.status_code, "2027-01-15 08:00:00 UTC" in over.json()["detail"]) == (409, True)
    audit = admin.get(f"{API}/audit").json()["audit"]
    assert [one["action"] for one in audit].count("alert acknowledge") == 1


def test_what_is_missing_is_given_up_and_taken_if_it_comes_all_the_same(hub: HubApi, admin: httpx.Client) -> None:
    store = StoredHub(Store(hub.engine))
    for number in (1, 2, 5):
        store.take(EVENTS, message(number))
    store.take(EVENTS, message(9, id=f"dev-9/{'a' * 16}/9"))
    losses = lambda: admin.get(f"{API}/devices/dev-9/losses").json()  # noqa: E731
    assert (losses()["missing_total"], losses()["total"]) == (5, 0)
    assert "lost for good: event 5" in hub.almena("give-up", "dev-9", "--yes")
    assert (losses()["missing_total"], losses()["total"], losses()["missing"]) == (0, 5, [])
    after = store.take(EVENTS, message(5))
    assert after is not None
    assert (after.upto, after.ranges) == (2, ((5, 5),)), "the device may have the others still, and keeps them"
    store.take(EVENTS, message(7, id=f"dev-9/{SPOOL}/7"))
    assert (losses()["missing_total"], losses()["total"]) == (0, 4)
    assert json.loads(hub.almena("give-up", "dev-9", "--json")) == {"given_up": {}}
    (line,) = [one for one in admin.get(f"{API}/audit").json()["audit"] if one["action"] == "missing give up"]
    assert (line["target"], line["detail"]) == ("dev-9", {"event": 5})
    assert "there is no device nobody" in hub.almena("give-up", "nobody", "--yes", code=2)
