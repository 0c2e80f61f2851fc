"""Alerts: they begin and end once, and people are told, by a real mail server and a real webhook."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from pydantic import ValidationError
from sqlalchemy import Engine, select, update

from fleet.alerts.herald import GIVEN_UP_AFTER_S, Herald
from fleet.alerts.rules import RULES, Facts, Stream, facts
from fleet.alerts.watch import Watch
from fleet.settings import AlertSettings, EmailSettings, WebhookSettings
from fleet.store.database import connect, migrate, writing
from fleet.store.tables import alerts, devices, records, rules
from tests.fakes.hub_api import Postbox
from tests.fakes.ports import free_port
from tests.waiting import wait_until

NOW = 1_800_000_000.0


@dataclass
class Scene:
    """A store with one device, the rules' thread without its thread, and moments as the test wants them."""

    engine: Engine
    herald: Herald
    watch: Watch
    link: Postbox

    def sees(self, at: float, **values: Any) -> None:
        """The device was heard `at`, with these columns; then the rules look."""
        with writing(self.engine) as connection:
            connection.execute(update(devices).values({"seen_at": at, "telemetry_at": at, **values}))
        self.watch.look(at)

    def rows(self) -> list[Any]:
        """All alerts."""
        with self.engine.connect() as connection:
            return list(connection.execute(select(alerts).order_by(alerts.c.id)))

    def states(self) -> list[tuple[str, str]]:
        """Rule and state of each."""
        return [(row.rule, row.state) for row in self.rows()]


@contextmanager
def scene(folder: Path, settings: AlertSettings | None = None) -> Iterator[Scene]:
    """With a device that is online."""
    engine = connect(f"sqlite:///{folder / 'hub.sqlite'}")
    migrate(engine)
    with writing(engine) as connection:
        connection.execute(devices.insert().values(device="cam-1", state="online", seen_at=NOW, lease_s=90.0))
    herald, link = Herald(engine, settings or AlertSettings()), Postbox()
    yield Scene(engine, herald, Watch(engine, link, herald, 5.0, grace_s=10.0), link)
    engine.dispose()


def test_what_lasts_is_an_alert_and_ends_below_another_limit(tmp_path: Path) -> None:
    with scene(tmp_path) as one:
        for second, celsius, wanted in (
            (0, 90.0, []),
            (30, 70.0, []),
            (40, 90.0, []),
            (101, 90.0, [("hot", "firing")]),
            (110, 82.0, [("hot", "firing")]),
            (120, 79.0, [("hot", "firing")]),
            (150, 83.0, [("hot", "firing")]),
            (160, 79.0, [("hot", "firing")]),
            (221, 79.0, [("hot", "resolved")]),
        ):
            one.sees(NOW + second, figures={"temperature_c": celsius})
            assert one.states() == wanted, second
        assert (one.rows()[0].since, one.rows()[0].until) == (NOW + 40, NOW + 221)
        assert "90 °C" in one.rows()[0].detail


def test_streams_of_which_nothing_is_known_keep_their_alerts(tmp_path: Path) -> None:
    with scene(tmp_path) as one:
        ice = {"stream": "ice", "state": "frozen", "code": "STREAM_FROZEN"}
        down = {"vision": {"state": "down", "reason": "it does not answer"}}
        for second, sample, wanted in (
            (0, {"vision": {"state": "up", "streams": [ice]}}, []),
            (31, {"vision": {"state": "up", "streams": [ice]}}, [("frozen", "firing")]),
            (40, down, [("frozen", "firing")]),
            (161, down, [("frozen", "firing"), ("process", "firing")]),
            (170, {"vision": {"state": "up", "streams": []}}, [("frozen", "firing"), ("process", "firing")]),
            (231, {"vision": {"state": "up", "streams": []}}, [("frozen", "resolved"), ("process", "resolved")]),
        ):
            one.sees(NOW + second, telemetry=sample)
            assert one.states() == wanted, second


def test_a_silent_device_is_offline_unless_the_hub_itself_was_deaf(tmp_path: Path) -> None:
    with scene(tmp_path) as one:
        one.link.connected = False
        one.watch.look(NOW + 500)
        one.watch.look(NOW + 700)
        assert one.states() == []
        one.link.connected = True
        for second in (710, 719, 721):
            one.watch.look(NOW + second)
        assert one.states() == []
        one.watch.look(NOW + 782)
        assert one.states() == [("offline", "firing")]
        one.link.connected = False
        one.watch.look(NOW + 900)
        assert one.states() == [("offline", "firing")]
        one.link.connected = True
        one.sees(NOW + 1000)
        one.sees(NOW + 1011)
        one.sees(NOW + 1072)
        assert one.states() == [("offline", "resolved")]


def test_a_hub_that_cannot_believe_its_clock_judges_nobody(tmp_path: Path) -> None:
    with scene(tmp_path) as one:
        one.sees(NOW, figures={"temperature_c": 90.0})
        one.link.clock_trouble = "this machine's clock is wrong"
        one.watch.look(NOW + 365 * 86400)
        one.watch.look(NOW + 366 * 86400)
        one.link.clock_trouble = ""
        one.watch.look(NOW + 50)
        assert one.states() == []
        one.sees(NOW + 61, figures={"temperature_c": 90.0})
        assert one.states() == [("hot", "firing")]


def test_a_loss_that_an_earlier_version_took_does_not_end_the_alerts(tmp_path: Path) -> None:
    with scene(tmp_path) as one:
        kept = {"device": "cam-1", "spool": "ff" * 8, "lane": "loss", "at": NOW, "captured_at": NOW, "mono_ns": 1, "received_at": NOW}
        with writing(one.engine) as connection:
            for number, count in enumerate((str(2**63), "9" * 5000, "5"), 1):
                data = '{"data":{"lane":"event","spool":"a","reason":"r","count":%s,"ranges":[],"since":1.0,"until":2.0}}'
                connection.execute(records.insert().values(seq=number, payload=(data % count).encode(), **kept))
        one.watch.look(NOW)
        one.watch.look(NOW + 11)
        assert [row.detail for row in one.rows()] == ["5 events were declared as lost within an hour"]


def test_rules_can_be_set_and_switched_off(tmp_path: Path) -> None:
    with scene(tmp_path) as one:
        with writing(one.engine) as connection:
            values = {"name": "hot", "enabled": True, "threshold": {"above": 60.0, "clear": 55.0}, "for_s": 0.0, "notify": None}
            connection.execute(rules.insert().values(values))
        one.sees(NOW, figures={"temperature_c": 61.0})
        assert one.states() == [("hot", "firing")]
        with writing(one.engine) as connection:
            connection.execute(update(rules).values(enabled=False))
        one.sees(NOW + 1, figures={"temperature_c": 99.0})
        assert one.states() == [("hot", "resolved")]


SAMPLE = {
    "at": NOW, "period_s": 30.0, "system": {"throttled": "under-voltage"}, "mqtt": {"identity_trouble": "the CA refuses the renewal"},
    "vision": {"streams": [
        {"stream": "ice", "state": "frozen", "code": "STREAM_FROZEN"}, {"stream": "dark", "state": "covered", "code": "STREAM_COVERED"},
        {"stream": "gone", "state": "connecting", "code": "STREAM_TIMEOUT", "detail": "no answer"},
        {"stream": "slow", "state": "running", "processed_per_second": 3.0, "expected_per_second": 15.0},
    ]},
    "dicom": {"state": "down", "reason": "no sign of life for 60 s"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "given", "stream"),
    [
        ("offline", Facts("cam", "offline"), ""),
        ("process", SAMPLE, "dicom"),
        ("frozen", SAMPLE, "ice"),
        ("covered", SAMPLE, "dark"),
        ("stream", SAMPLE, "gone"),
        ("slow", SAMPLE, "slow"),
        ("throttled", SAMPLE, ""),
        ("certificate", SAMPLE, ""),
        ("hot", Facts("cam", "online", figures={"temperature_c": 85.0}), ""),
        ("disk", Facts("cam", "online", figures={"disk_percent": 90.0}), ""),
        ("outbox", Facts("cam", "online", figures={"outbox_oldest_s": 600.0}), ""),
        ("losses", Facts("cam", "online", lost=1), ""),
        ("clock", Facts("cam", "online", seen_at=NOW, clock_at=NOW + 86400), ""),
        ("clock", Facts("cam", "online", seen_at=NOW, clock_at=0.0), ""),
    ],
)
def test_every_rule_finds_what_it_is_for_and_nothing_where_all_is_well(rule: str, given: Any, stream: str) -> None:
    one = given if isinstance(given, Facts) else facts("cam", "online", NOW, given, {}, 0)
    checks = RULES[rule]
    assert [found.stream for found in checks.check(one, checks.limits, lambda _stream: False)] == [stream]
    well = Facts("cam", "online", NOW, {"temperature_c": 50.0}, (Stream("door", "running", "", "", 1.0),), NOW - 20)
    assert list(checks.check(well, checks.limits, lambda _stream: False)) == []


@pytest.mark.parametrize(
    "sample", [None, {}, {"vision": 1, "system": [], "mqtt": "x"}, {"vision": {"streams": [1, {"stream": {}}]}, "at": "x"}]
)
def test_no_sample_breaks_the_rules(sample: Any) -> None:
    one = facts("cam", "online", NOW, sample, None, 0)
    for rule in RULES.values():
        list(rule.check(one, rule.limits, lambda _stream: False))


@dataclass
class Mailbox:
    """What a mail server has taken."""

    taken: list[bytes] = field(default_factory=list)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.taken.append(envelope.content)
        return "250 OK"


@contextmanager
def webhook(taken: list[tuple[str, bytes]]) -> Iterator[tuple[str, list[int]]]:
    """An HTTP server; the list holds the answers that it gives first, then 204."""
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = answers.pop(0) if answers else 204
            if status == 204:
                taken.append((self.headers["X-Almena-Signature"], body))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_people_are_told_again_until_it_works(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    mailbox, hooks, port = Mailbox(), list[tuple[str, bytes]](), free_port()
    with webhook(hooks) as (url, answers):
        settings = AlertSettings(
            email=EmailSettings(host="127.0.0.1", port=port, security="none", sender="hub@example.org", recipients=("ops@example.org",)),
            webhooks=(WebhookSettings(name="ops", url=url, secret_file=secret),),
        )
        answers += [500]
        with scene(tmp_path, settings) as one:
            one.sees(NOW, figures={"temperature_c": 99.0})
            one.sees(NOW + 61, figures={"temperature_c": 99.0})
            one.herald.tell(NOW + 61)  # no mail server yet, and a webhook that fails
            assert (mailbox.taken, hooks) == ([], [])
            assert {entry["tries"] for entry in one.rows()[0].notified["pending"]} == {1}
            mail = Controller(mailbox, hostname="127.0.0.1", port=port, ready_timeout=60)
            mail.start()
            try:
                one.herald.tell(NOW + 62)  # not due yet
                assert hooks == []
                one.herald.tell(NOW + 80)
                one.sees(NOW + 100, figures={"temperature_c": 50.0})
                one.sees(NOW + 200, figures={"temperature_c": 50.0})
                one.herald.tell(NOW + 200)
            finally:
                mail.stop()
            notified = one.rows()[0].notified
        assert notified["pending"] == notified["given_up"] == []
        assert [(entry["way"], entry["what"]) for entry in notified["sent"]] == [
            ("email", "firing"), ("webhook:ops", "firing"), ("email", "resolved"), ("webhook:ops", "resolved")
        ]  # fmt: skip
    subjects = [message_from_bytes(content)["Subject"] for content in mailbox.taken]
    assert subjects[0].startswith("[Almena] cam-1: hot: ")
    assert "is over" in subjects[1]
    assert [json.loads(body)["alerts"][0]["what"] for _, body in hooks] == ["firing", "resolved"]
    for signature, body in hooks:
        assert signature == "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    "url", ["https://hooks.example.org:80a/x", "http://[::1", "http://:80/", "http://x:99999/", f"https://{'a' * 70}.é/"]
)
def test_a_mistyped_webhook_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValidationError, match=r"this (is no address|address names no host)"):
        WebhookSettings(name="ops", url=url)


def test_a_way_that_stays_shut_is_given_up_after_a_day_and_said(tmp_path: Path) -> None:
    settings = AlertSettings(webhooks=(WebhookSettings(name="ops", url=f"http://127.0.0.1:{free_port()}/"),))
    with scene(tmp_path, settings) as one:
        one.sees(NOW, figures={"temperature_c": 99.0})
        one.sees(NOW + 61, figures={"temperature_c": 99.0})
        one.herald.tell(NOW + 61)
        one.herald.tell(NOW + 62 + GIVEN_UP_AFTER_S)
        row = one.rows()[0]
        assert row.due is None
        assert [entry["way"] for entry in row.notified["given_up"]] == ["webhook:ops"]
        assert row.notified["given_up"][0]["why"]


def test_the_threads_do_it_by_themselves(tmp_path: Path) -> None:
    hooks: list[tuple[str, bytes]] = []
    with webhook(hooks) as (url, _), scene(tmp_path, AlertSettings(webhooks=(WebhookSettings(name="ops", url=url),))) as one:
        with writing(one.engine) as connection:
            connection.execute(update(devices).values(seen_at=time.time(), telemetry_at=time.time(), figures={"disk_percent": 99.0}))
            connection.execute(rules.insert().values(name="disk", enabled=True, threshold={}, for_s=0.0))
        one.herald.start()
        one.watch.start()
        try:
            wait_until(lambda: hooks, 10, "the webhook")
        finally:
            one.watch.stop()
            one.herald.stop()
    assert json.loads(hooks[0][1])["alerts"][0]["rule"] == "disk"
