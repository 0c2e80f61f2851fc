"""The hub's API: who may do what, what it answers, and that nothing which a device sent becomes more than data."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from sqlalchemy import insert, select
from starlette.types import Message

from agent.http import guard
from fleet.accounts import MIN_PASSWORD, ROLES, Role
from fleet.api.access import OPEN, ROLE
from fleet.checkup import running
from fleet.settings import HubWebSettings
from fleet.store.database import writing
from fleet.store.tables import commands, devices, identities, identity_copies
from tests.fakes.hub_api import PASSWORD, HubApi
from tests.fakes.ports import free_port
from tests.waiting import wait_until

HOSTILE = "</script><img src=x onerror=alert(1)>"
API = "/api/v1"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubApi]:
    with HubApi(tmp_path_factory.mktemp("hub")) as one:
        one.device("cam-1", figures={"temperature_c": 51.0, "outbox_depth": 3.0}, telemetry={"at": 1.0}, site="lab")
        one.device("cam-2", state="stopped")
        one.event("cam-1", 1, {"type": "new", "name": "Ada"}, subject="Ada", at=100.0)
        one.event("cam-1", 2, {"type": "end", "name": "Ada"}, subject="Ada", at=200.0)
        with writing(one.engine) as connection:
            connection.execute(insert(identities).values(id="p-1", origin="cam-1", site="lab", name="Ada", revision=1, at=100.0))
            connection.execute(insert(identity_copies).values(identity="p-1", device="cam-1", revision=1))
        yield one


@pytest.fixture(scope="module")
def admin(hub: HubApi) -> httpx.Client:
    return hub.client("admin")


@pytest.fixture(scope="module")
def described(admin: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = admin.get(f"{API}/openapi.json").json()
    return found


def operations(described: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """Method, path with something in place of its parameters, and the least role."""
    found = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            found.append((method.upper(), re.sub(r"\{\w+\}", "1", path), operation.get(ROLE)))
    return found


def test_no_operation_is_open_but_the_login_and_the_probes(hub: HubApi, described: dict[str, Any]) -> None:
    nobody = hub.client(None)
    found = operations(described)
    assert len(found) > 25
    assert {path for _, path, role in found if role is None} == set(OPEN) & {path for _, path, _ in found}
    for method, path, role in found:
        if role is not None:
            assert nobody.request(method, path).status_code == 401, (method, path)
            wrong = nobody.request(method, path, headers={"Authorization": "Bearer almena_wrong"})
            assert wrong.status_code == 401, (method, path)


def test_every_operation_refuses_keys_of_a_lesser_role(hub: HubApi, described: dict[str, Any]) -> None:
    clients: dict[Role, httpx.Client] = {role: hub.client(role) for role in ROLES}
    tried = 0
    for method, path, least in operations(described):
        for role in ROLES[: ROLES.index(least)] if least else ():
            answer = clients[role].request(method, path, json={} if method != "GET" else None)
            assert answer.status_code == 403, (method, path, role)
            assert answer.json()["title"] == "Not for this role"
            tried += 1
    assert tried > 20


def test_every_answer_is_as_described(hub: HubApi, admin: httpx.Client, described: dict[str, Any]) -> None:
    admin.post(f"{API}/devices/cam-1/commands", json={"name": "status"})
    missing = []
    for path, methods in described["paths"].items():
        operation = methods.get("get")
        content = operation["responses"]["200"].get("content", {}) if operation else {}
        if "application/json" not in content:
            continue
        address = path.replace("{device}", "cam-1").replace("{command}", _newest_command(admin)).replace("{identity}", "p-1")
        answer = admin.get(address, params={"metric": "cpu_percent"} if path.endswith("/telemetry") else None)
        if answer.status_code != 200:
            missing.append((address, answer.text))
            continue
        schema = {**content["application/json"]["schema"], "components": described["components"]}
        jsonschema.validate(answer.json(), schema)
    assert missing == []


def _state_of(hub: HubApi, command: Any) -> str:
    with hub.engine.connect() as connection:
        return str(connection.execute(select(commands.c.state).where(commands.c.id == command)).scalar_one())


def _newest_command(client: httpx.Client) -> str:
    found: str = client.get(f"{API}/devices/cam-1/commands").json()["commands"][0]["id"]
    return found


def test_sessions(hub: HubApi) -> None:
    hub.accounts.add_user("test", "ada", PASSWORD, "operator")
    with httpx.Client(base_url=hub.server.url, timeout=60) as browser:
        assert browser.get("/", follow_redirects=False).status_code == 303
        assert browser.post(f"{API}/login", json={"username": "ada", "password": "wrong"}).status_code == 401
        assert browser.post(f"{API}/login", json={"username": "eve", "password": PASSWORD}).status_code == 401
        answer = browser.post(f"{API}/login", json={"username": "ada", "password": PASSWORD})
        assert answer.status_code == 204
        assert {"httponly", "samesite=strict"} <= {part.strip().lower() for part in answer.headers["set-cookie"].split(";")}
        assert browser.get(f"{API}/me").json() == {"name": "ada", "role": "operator"}
        foreign = browser.post(f"{API}/logout", headers={"Origin": "http://evil.example"})
        assert foreign.status_code == 403
        hub.accounts.change_user("test", "ada", role="viewer")
        assert browser.get(f"{API}/me").status_code == 401  # a changed user logs in again
        assert browser.post(f"{API}/login", json={"username": "ada", "password": PASSWORD}).status_code == 204
        assert browser.post(f"{API}/logout").status_code == 204
        assert browser.get(f"{API}/me").status_code == 401


def test_users_and_keys(hub: HubApi, admin: httpx.Client) -> None:
    new = {"name": "grace", "password": "long enough it is", "role": "admin"}
    assert admin.post(f"{API}/users", json=new).status_code == 204
    assert "already" in admin.post(f"{API}/users", json=new).json()["detail"]
    short = admin.post(f"{API}/users", json={**new, "name": "lise", "password": "x" * (MIN_PASSWORD - 1)})
    assert short.status_code == 422
    assert admin.post(f"{API}/users", json={**new, "name": "<b>"}).status_code == 422
    assert "last admin" in admin.delete(f"{API}/users/grace").json()["detail"]
    assert [user["name"] for user in admin.get(f"{API}/users").json()["users"]].count("grace") == 1
    made = admin.post(f"{API}/keys", json={"name": "reports", "role": "viewer", "expires_at": None}).json()
    with httpx.Client(base_url=hub.server.url, headers={"Authorization": f"Bearer {made['key']}"}, timeout=60) as program:
        assert program.get(f"{API}/me").json() == {"name": f"key:{made['id']}", "role": "viewer"}
        assert admin.delete(f"{API}/keys/{made['id']}").status_code == 204
        assert program.get(f"{API}/me").status_code == 401
    past = admin.post(f"{API}/keys", json={"name": "old", "role": "viewer", "expires_at": 1.0}).json()
    with httpx.Client(base_url=hub.server.url, headers={"Authorization": f"Bearer {past['key']}"}, timeout=60) as program:
        assert program.get(f"{API}/me").status_code == 401
    journal = admin.get(f"{API}/audit").text
    assert {"user add", "key add", "key remove"} <= {one["action"] for one in json.loads(journal)["audit"]}
    assert made["key"] not in journal
    assert new["password"] not in journal


@pytest.mark.parametrize("value", [b'"\\ud800"', b"[" * 300 + b"]" * 300], ids=["half a surrogate pair", "too deep"])
def test_a_command_that_no_message_can_carry_is_refused_and_one_of_old_fails(hub: HubApi, admin: httpx.Client, value: bytes) -> None:
    body, kind = b'{"name":"reload","args":{"x":%s}}' % value, {"Content-Type": "application/json"}
    refused = admin.post(f"{API}/devices/cam-1/commands", content=body, headers=kind)
    assert refused.status_code == 422
    assert "surrogate" in refused.text or "cannot be written as JSON" in refused.text
    old = {"id": f"old-{len(value)}", "device": "cam-1", "name": "reload", "by": "ada", "at": time.time(), "expires_at": time.time() + 600}
    with writing(hub.engine) as connection:
        connection.execute(insert(commands).values(**old, args={"x": json.loads(value)}, state="queued"))
    hub.courier.wake()
    wait_until(lambda: _state_of(hub, old["id"]) == "failed", 30, "the command to fail")
    assert admin.get(f"{API}/commands/{old['id']}").json()["reply"]["code"] == "not-sent"
    assert hub.courier.alive


@pytest.mark.parametrize("cursor", ["nan|5", "inf|5", "5", "5|0", "x|y"])
def test_a_cursor_that_is_none_is_refused(admin: httpx.Client, cursor: str) -> None:
    assert admin.get(f"{API}/events", params={"before": cursor}).status_code == 422
    if not cursor[0].isdecimal():
        assert admin.get(f"{API}/dead-letters", params={"before": cursor}).status_code == 422


KEPT_BY_NOBODY = {"NUL": "\0", "half a surrogate pair": "\ud800", "no number": float("nan")}


@pytest.mark.parametrize("value", KEPT_BY_NOBODY.values(), ids=KEPT_BY_NOBODY)
def test_what_no_database_takes_is_refused(hub: HubApi, admin: httpx.Client, value: Any) -> None:
    def sent(method: str, path: str, body: Any) -> int:
        content = json.dumps(body).encode()
        return admin.request(method, f"{API}/{path}", content=content, headers={"Content-Type": "application/json"}).status_code

    assert sent("POST", "login", {"username": value, "password": value}) == 422
    assert sent("POST", "users", {"name": value, "password": "long enough it is", "role": "admin"}) == 422
    assert sent("PATCH", "devices/cam-1", {"note": value}) == 422
    assert sent("PUT", "rules/hot", {"threshold": {"above": value}}) == 422
    assert sent("PUT", "rules/hot", {"threshold": {"above": 10**400}}) == 422
    assert sent("PUT", "rules/hot", {"threshold": {"above": 60, "clear": 70}}) == 422
    assert sent("POST", "devices/cam-1/commands", {"name": "reload", "args": {"a": [value]}}) == 422
    assert sent("PUT", "devices/cam-1/desired", {"state": {"telemetry": {"a": value}}}) == 422
    assert sent("PATCH", "devices/cam-1", {"note": "a \\u0000 that is only written so"}) == 204


@pytest.mark.parametrize("address", ["events?subject=a%00b", "devices/a%00b", "events?device=%00", "devices?search=%00"])
def test_an_address_with_nul_is_refused(admin: httpx.Client, address: str) -> None:
    assert admin.get(f"{API}/{address}").status_code == 400


def test_commands_go_out_and_run_out(hub: HubApi, admin: httpx.Client) -> None:
    hub.link.published.clear()
    made = admin.post(f"{API}/devices/cam-1/commands", json={"name": "reload", "args": {"n": 1}}).json()
    assert (made["state"], made["by"][:4]) == ("queued", "key:")
    sent = wait_until(lambda: [one for one in hub.link.published if one[1].get("id") == made["id"]], 10, "the command")
    topic, payload, retained = sent[0]
    assert (topic, retained) == ("almena/1/cam-1/down/command/reload", False)
    assert payload == {
        "v": 1, "id": made["id"], "name": "reload", "args": {"n": 1}, "expires_at": made["expires_at"],
        "reply_to": f"almena/1/cam-1/up/reply/{made['id']}",
    }  # fmt: skip
    hub.link.connected = False
    try:
        late = admin.post(f"{API}/devices/cam-1/commands", json={"name": "reload", "expires_s": 0.1}).json()
        wait_until(lambda: admin.get(f"{API}/commands/{late['id']}").json()["state"] == "expired", 10, "the command to run out")
    finally:
        hub.link.connected = True
    assert admin.post(f"{API}/devices/nobody/commands", json={"name": "reload"}).status_code == 404
    assert admin.post(f"{API}/devices/cam-1/commands", json={"name": "re load"}).status_code == 422
    nan = admin.post(
        f"{API}/devices/cam-1/commands", content=b'{"name":"reload","args":{"x":NaN}}', headers={"Content-Type": "application/json"}
    )
    assert nan.status_code == 422


def test_desired_settings_are_checked_compared_and_sent(hub: HubApi, admin: httpx.Client) -> None:
    hub.link.published.clear()
    path = f"{API}/devices/cam-1/desired"
    wrong = {
        "telemetry": {"perid_s": 5},
        "web": {},
        "streams": [{"name": "door", "source": {"type": "rtsp", "url": "rtsp://u:secret@h/x"}}],
    }
    refused = admin.put(path, json={"state": wrong})
    assert refused.status_code == 422
    assert {one["field"] for one in refused.json()["errors"]} == {"web", "telemetry.perid_s"}
    del wrong["telemetry"], wrong["web"]
    assert "does not travel" in admin.put(path, json={"state": wrong}).json()["detail"]
    state = {
        "telemetry": {"period_s": 10},
        "streams": [{"name": "door", "source": {"type": "rtsp", "url": "rtsp://h/x", "password_file": "/elsewhere"}}],
    }
    state["streams"][0]["source"]["username"] = "u"  # type: ignore[index]
    assert admin.post(f"{path}/diff", json={"state": {"telemetry": {"period_s": 10}}}).json() == {
        "changes": [{"path": "telemetry.period_s", "before": None, "after": 10}]
    }
    first = admin.put(path, json={"state": state, "revision": None}).json()
    wait_until(lambda: admin.get(path).json()["sent"], 10, "the desired state to be sent")
    assert hub.link.published == [("almena/1/cam-1/down/desired", {"v": 1, "revision": first["revision"], "state": state}, True)]
    assert admin.put(path, json={"state": {}, "revision": first["revision"] + 1}).status_code == 409
    assert admin.put(path, json={"state": None, "revision": first["revision"]}).status_code == 200
    wait_until(lambda: len(hub.link.published) == 2, 10, "the desired state to be taken back")
    nothing = {"v": 1, "revision": first["revision"] + 1, "state": {}}
    assert hub.link.published[1] == ("almena/1/cam-1/down/desired", nothing, True)
    assert (admin.get(path).json()["state"], admin.get(path).json()["outcome"]) == (None, "waiting")


def test_lists_are_filtered_sorted_and_paged(admin: httpx.Client) -> None:
    names = lambda **query: [one["device"] for one in admin.get(f"{API}/devices", params=query).json()["devices"]]  # noqa: E731
    assert names(sort="-temperature_c") == names(sort="device") == ["cam-1", "cam-2"]
    assert names(sort="-device") == ["cam-2", "cam-1"]
    assert names(state="stopped") == names(search="AM-2") == ["cam-2"]
    assert names(site="lab") == ["cam-1"]
    assert names(search="%") == names(alert="any") == []
    assert admin.get(f"{API}/devices", params={"sort": "hash"}).status_code == 422
    page = admin.get(f"{API}/events", params={"limit": 1, "subject": "Ada"}).json()
    assert [one["at"] for one in page["events"]] == [200.0]
    rest = admin.get(f"{API}/events", params={"limit": 1, "subject": "Ada", "before": page["next"]}).json()
    assert ([one["at"] for one in rest["events"]], rest["next"]) == ([100.0], None)
    assert [one["at"] for one in admin.get(f"{API}/events", params={"site": "lab", "until": 150}).json()["events"]] == [100.0]
    assert admin.get(f"{API}/events", params={"before": "1|x"}).status_code == 422


def test_what_devices_and_people_wrote_stays_data(hub: HubApi, admin: httpx.Client) -> None:
    with writing(hub.engine) as connection:
        values = {"telemetry": {HOSTILE: HOSTILE}, "figures": {f"fps.{HOSTILE}": 1.0}, "models": {HOSTILE: HOSTILE}, "agent": HOSTILE}
        connection.execute(devices.insert().values(device="cam-9", boot_id=HOSTILE, **values))
    hub.event("cam-9", 1, {"name": HOSTILE, "track": "=1+1"}, subject=HOSTILE, type=HOSTILE, model=HOSTILE)
    assert admin.patch(f"{API}/devices/cam-9", json={"note": HOSTILE, "site": HOSTILE, "group": HOSTILE}).status_code == 204
    admin.post(f"{API}/keys", json={"name": HOSTILE, "role": "viewer"})
    places = (
        "devices",
        "devices/cam-9",
        "events",
        "events.csv",
        "fleet",
        "audit",
        "keys",
        "devices/cam-9/desired",
        "devices/cam-9/telemetry?metric=x",
    )
    seen = 0
    for place in places:
        answer = admin.get(f"{API}/{place}")
        assert answer.headers["content-type"].split(";")[0] in ("application/json", "text/csv")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        seen += HOSTILE in (json.dumps(answer.json()) if "json" in answer.headers["content-type"] else answer.text)
    assert seen >= 6
    assert "'=1+1" in admin.get(f"{API}/events.csv").text
    lost = admin.get(f"{API}/devices/{HOSTILE.replace('/', '')}")
    assert lost.headers["content-type"] == "application/problem+json"


def test_what_happens_is_told_as_it_happens(hub: HubApi) -> None:
    with hub.client("viewer").stream("GET", f"{API}/live", params={"device": "cam-1"}) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith("event")) == "event: ready"
        hub.event("cam-2", 1, {"type": "new"})
        hub.event("cam-1", 3, {"type": "new", "name": "Ada"})
        told = next(line for line in lines if line == "event: event")
        assert told
        assert json.loads(next(lines).removeprefix("data: "))["id"].startswith("cam-1/")


def test_metrics_and_health(hub: HubApi, admin: httpx.Client) -> None:
    text = admin.get("/metrics").text
    assert "almena_hub_connected 1.0" in text
    assert 'almena_hub_devices{state="stopped"} 1.0' in text
    assert hub.client(None).get("/readyz").json()["ready"] is True
    assert "almena_hub_storing 1.0" in text
    hub.link.certificate_ends = 1.8e9
    assert 'almena_hub_certificate_end_seconds{certificate="broker"} 1.8e+09' in admin.get("/metrics").text
    hub.link.connected = False
    try:
        assert hub.client(None).get("/readyz").status_code == 503
        assert hub.client(None).get("/healthz").status_code == 200
    finally:
        hub.link.connected = True
    hub.link.trouble = "database or disk is full\nand more"
    try:
        told = hub.client(None).get("/readyz")
        assert (told.status_code, told.json()["store"], told.json()["trouble"]) == (503, False, "database or disk is full")
        assert "almena_hub_storing 0.0" in admin.get("/metrics").text
    finally:
        hub.link.trouble = ""
    for trouble, part in (("clock_trouble", "clock"), ("unheard", "broker")):
        setattr(hub.link, trouble, "something is wrong")
        try:
            told = hub.client(None).get("/readyz")
        finally:
            setattr(hub.link, trouble, "")
        assert (told.status_code, told.json()[part], told.json()["trouble"]) == (503, False, "something is wrong")


def test_what_the_doctor_hears_of_a_hub_that_runs(hub: HubApi, monkeypatch: pytest.MonkeyPatch) -> None:
    web = HubWebSettings(port=int(hub.server.url.rstrip("/").rpartition(":")[2]))
    assert running(web).state == "ok"
    monkeypatch.setattr(hub.link, "connected", False)
    assert (running(web).state, running(web).text) == ("fail", "it runs, and stores nothing: no connection to its broker")
    monkeypatch.setattr(hub.link, "trouble", "database or disk is full")
    assert running(web).text.endswith("stores nothing: database or disk is full")
    nobody = running(HubWebSettings(port=free_port()))
    assert (nobody.state, "journalctl -u almena-hub" in nobody.advice) == ("fail", True)


def test_a_store_that_others_write_keeps_nobody_with_a_key_waiting(hub: HubApi) -> None:
    key = hub.client("viewer")
    with writing(hub.engine):
        began = time.monotonic()
        assert key.get("/metrics").status_code == 200
        assert time.monotonic() - began < 15  # not the half minute for which a writer waits


def test_a_session_is_looked_up_beside_the_event_loop() -> None:
    async def one_message() -> set[int]:
        threads: set[int] = set()

        def valid() -> bool:
            threads.add(threading.get_ident())
            return False

        async def send(message: Message) -> None:
            assert not message.get("more_body")

        guarded = guard._while_valid(valid, send)
        await guarded({"type": "http.response.body", "body": b"x", "more_body": True})
        return threads - {threading.get_ident()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "SESSION_CHECK_S", -1.0)
        assert len(asyncio.run(one_message())) == 1
