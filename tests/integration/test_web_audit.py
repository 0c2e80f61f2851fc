"""What the page, REST and the command line leave in the audit lane, and that nothing changes which cannot be recorded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from agent import wire
from agent.audit import record
from agent.http.passwords import hash_password
from agent.outbox import Outbox, OutboxFullError
from agent.settings import MEBIBYTE, AuditLaneSettings, LoginSettings, OutboxSettings, WebSettings
from agent.tls_settings import WebTlsSettings
from tests.fakes.certificates import Authority
from tests.fakes.small_site import SmallSite

PICTURE = b"\xff\xd8" + b"x" * 2000


def records(outbox: Outbox) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Actor, action, outcome and detail, in order."""
    envelopes = outbox.history(lane="audit", after_seq=0, limit=100)
    entries = [wire.Audit.model_validate(envelope["data"]) for envelope in envelopes]
    return [(entry.actor, entry.action, entry.outcome, entry.detail) for entry in entries]


def fill(outbox: Outbox, size: int) -> None:
    while True:
        record(outbox, "test", "fill", "done", {"text": "x" * size})


def test_every_change_is_recorded_before_and_after_and_names_nobody(tmp_path: Path) -> None:
    with SmallSite(tmp_path) as site:
        person = site.client.post("/api/1/identities", json={"name": "Ada Lovelace", "consent": "a form"}).json()["id"]
        path = f"/api/1/identities/{person}"
        headers = {"Content-Type": "image/jpeg", "Sec-Fetch-Site": "same-origin"}
        assert site.client.post(f"{path}/images", content=PICTURE, headers=headers).status_code == 201
        assert site.client.patch(path, json={"consent": "no more", "expires_at": time.time() + 60}).json()["name"] == "Ada Lovelace"
        site.vision.faces.unknown["u-3f"] = {"id": "u-3f", "sightings": 1, "created_at": 0.0, "seen_at": 0.0}
        named = site.client.post("/api/1/clusters/u-3f/name", json={"name": "Grace Hopper"}).json()["id"]
        assert site.client.delete("/api/1/clusters/Ada Lovelace").status_code == 404
        assert site.client.delete(path).status_code == 204
        assert site.client.post("/api/1/config/reload").status_code == 201
        found = records(site.outbox)
        assert [entry[:3] for entry in found[::2]] == [(actor, action, "accepted") for actor, action, _, _ in found[1::2]]
        assert found[1::2] == [
            ("rest", "identity add", "done", {"id": person}),
            ("page", "identity add picture", "done", {"id": person}),
            ("rest", "identity change", "done", {"id": person, "fields": ["consent", "expires_at"]}),
            ("rest", "cluster name", "done", {"id": "u-3f", "became": named}),
            ("rest", "cluster erase", "failed", {"status": 404}),
            ("rest", "identity erase", "done", {"id": person}),
            ("rest", "settings reload", "done", {}),
        ]
        everything = json.dumps(site.outbox.history(lane="audit", limit=100))
        assert not any(word in everything for word in ("Ada", "Lovelace", "Grace", "form", "no more"))


def test_a_change_while_vision_is_down_is_recorded_as_failed(tmp_path: Path) -> None:
    with SmallSite(tmp_path) as site:
        site.stop_vision()
        assert site.client.delete("/api/1/identities/p-0a").status_code == 503
        assert records(site.outbox)[-1] == ("rest", "identity erase", "failed", {"id": "p-0a"})


def test_what_cannot_be_recorded_is_not_done(tmp_path: Path) -> None:
    with SmallSite(tmp_path, outbox=OutboxSettings(audit=AuditLaneSettings(max_bytes=MEBIBYTE))) as site:
        person = site.client.post("/api/1/identities", json={"name": "Ada"}).json()["id"]
        for size in (100_000, 1):
            with pytest.raises(OutboxFullError):
                fill(site.outbox, size)
        answer = site.client.post("/api/1/identities", json={"name": "Grace"})
        assert (answer.status_code, answer.headers["content-type"]) == (507, "application/problem+json")
        assert answer.json()["title"] == "Not done, because it cannot be recorded"
        assert list(site.vision.faces.records) == [person]
        assert site.client.delete(f"/api/1/identities/{person}").status_code == 507
        assert person in site.vision.faces.records
        assert site.client.get("/api/1/identities").status_code == 200


def test_logins_are_recorded_and_guesses_are_counted(tmp_path: Path) -> None:
    pair = Authority(tmp_path / "tls").server()
    login = LoginSettings(username="keeper", password_hash=hash_password("correct horse"))
    web = WebSettings(port=0, tls=WebTlsSettings(cert_file=pair.cert, key_file=pair.key), login=login)
    with SmallSite(tmp_path / "state", web) as site:
        for password, status in (("wrong", 401), ("correct horse", 204)):
            assert site.client.post("/api/1/login", json={"username": "keeper", "password": password}).status_code == status
        site.client.cookies.clear()
        for password, status in (("guess", 401), ("correct horse", 200)):
            assert site.client.get("/api/1/health", auth=("keeper", password)).status_code == status
        assert site.client.get("/api/1/health", auth=("keeper", "another guess")).status_code == 401
        assert records(site.outbox) == [
            ("page", "login", "refused", {}),
            ("page", "login", "done", {}),
        ]
        site.server.stop()
        assert records(site.outbox)[2:] == [("page", "login", "refused", {"count": 2})]
        assert "keeper" not in json.dumps(site.outbox.history(lane="audit", limit=100))


@pytest.mark.parametrize(
    "body",
    [{}, {"name": " "}, {"name": None}, {"consent": 5}, {"expires_at": 1.0}, {"expires_at": "soon"}, {"colour": "red"}],
)
def test_a_change_that_makes_no_sense_is_refused(tmp_path: Path, body: dict[str, Any]) -> None:
    with SmallSite(tmp_path) as site:
        record = dict(site.vision.faces.create("Ada Lovelace", "form", None))
        answer = site.client.patch(f"/api/1/identities/{record['id']}", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert site.vision.faces.records[record["id"]] == record


def test_an_expiry_is_set_and_taken_back(tmp_path: Path) -> None:
    with SmallSite(tmp_path) as site:
        path = f"/api/1/identities/{site.vision.faces.create('Ada', 'form', None)['id']}"
        at = round(time.time()) + 3600
        assert site.client.patch(path, json={"expires_at": at}).json()["expires_at"] == at
        assert site.client.patch(path, json={"expires_at": None, "name": " Ada L. "}).json()["expires_at"] is None
        assert site.client.get("/api/1/identities").json()[0]["name"] == "Ada L."
