"""The hub's ingest over a real mosquitto, driven by a plain MQTT client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.certificates import Authority
from tests.fakes.fleet import VERSIONS, Hub, Peer, peer
from tests.fakes.mosquitto import Mosquitto
from tests.waiting import wait_until

SPOOL = "00112233445566aa"


def envelope(
    seq: int, *, device: str = "dev-9", spool: str = SPOOL, kind: str = "count", stream: str = "cam", data: Any = None
) -> dict[str, Any]:
    """A row as a device sends it."""
    return {
        "v": 1, "id": f"{device}/{spool}/{seq}", "stream": stream, "kind": kind, "captured_at": 1.7e9 + seq, "mono_ns": seq, "boot_id": "b",
        "clock": "synced", "model": "", "host": "h", "data": {"n": seq} if data is None else data,
    }  # fmt: skip


@dataclass
class Scene:
    """An ingest that is connected, and a device."""

    hub: Hub
    device: Peer
    broker: Mosquitto

    def send(self, *numbers: int) -> None:
        """Publish rows."""
        for number in numbers:
            self.device.say("almena/1/dev-9/up/event/cam/count", envelope(number))

    def ack_that(self, **wanted: Any) -> dict[str, Any]:
        """Wait for an acknowledgement with these members."""

        def found() -> list[dict[str, Any]]:
            return [each.data for each in self.device.on("dev-9/down/ack") if wanted.items() <= each.data.items()]

        return wait_until(found, 10, f"an acknowledgement with {wanted}")[0]


@pytest.fixture(params=VERSIONS)
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """At both versions."""
    version = request.param
    with (
        Mosquitto(tmp_path / "broker") as broker,
        peer(broker.port, "almena/1/+/down/ack", "almena/1/hub/state", version=version) as device,
        Hub(tmp_path, broker.port, version) as hub,
    ):
        wait_until(lambda: [each for each in device.on("hub/state") if each.data["state"] == "online"], 15, "the hub's state")
        yield Scene(hub, device, broker)


def test_reordered_and_repeated(scene: Scene) -> None:
    scene.send(3, 5, 2)
    wait_until(lambda: acknowledged(scene) == {2, 3, 5}, 10, "the acknowledgements")
    scene.send(1, 3, 1)
    scene.ack_that(upto=3)
    scene.send(4)
    scene.ack_that(upto=5, spool=SPOOL)
    assert scene.hub.numbers() == [1, 2, 3, 4, 5]


def test_rows_with_properties_and_rows_longer_than_what_is_read_at_once(scene: Scene, tmp_path: Path) -> None:
    long = tmp_path / "long"
    long.write_text(json.dumps(envelope(1, data={"n": 1, "more": "x" * 200_000})))
    short = tmp_path / "short"
    short.write_text(json.dumps(envelope(2)))
    properties = ["-V", "5", *("-D", "publish", "user-property", "name", "y" * 300)]
    for file in (long, short):
        topic = ["-t", "almena/1/dev-9/up/event/cam/count", "-q", "1", "-f", str(file)]
        subprocess.run(["mosquitto_pub", "-p", str(scene.broker.port), *topic, *properties], check=True)
    scene.ack_that(upto=2, spool=SPOOL)
    assert scene.hub.numbers() == [1, 2]


def acknowledged(scene: Scene) -> set[int]:
    """Every number that the hub has said it stored."""
    spans = [span for each in scene.device.on("dev-9/down/ack") for span in ([1, each.data["upto"]], *each.data["ranges"])]
    return {number for low, high in spans for number in range(low, high + 1)}


def test_watermark_survives_a_restart(scene: Scene) -> None:
    scene.send(1, 2)
    scene.ack_that(upto=2)
    scene.hub.kill()
    scene.send(3)
    scene.hub.start()
    scene.ack_that(upto=3)
    assert scene.hub.numbers() == [1, 2, 3]


def test_refused_messages(scene: Scene) -> None:
    topic = "almena/1/dev-9/up/event/cam/count"
    scene.device.say(topic, {**envelope(1), "captured_at": "yesterday"})
    refusal = scene.ack_that(upto=0)["refused"][0]
    assert refusal["seq"] == 1
    assert "captured_at" in refusal["reason"]
    scene.device.say(topic, envelope(2, data={"padding": "x" * 300_000}))
    wait_until(lambda: any("300" in each["reason"] for each in refusals(scene)), 10, "the refusal of the large one")
    scene.device.say("almena/1/dev-9/up/event/other/count", envelope(3))
    wait_until(lambda: any("another stream" in each["reason"] for each in refusals(scene)), 10, "the refusal of the other stream")
    scene.device.say("almena/1/dev-9/up/audit", envelope(4))
    wait_until(lambda: any("does not belong there" in each["reason"] for each in refusals(scene)), 10, "the refusal of the wrong lane")
    scene.device.say("almena/1/dev-9/up/event/cam/count", b"\x00\x01")
    wait_until(lambda: len(scene.hub.sql("SELECT 1 FROM dead_letters")) == 5, 10, "five dead letters")
    scene.device.say("almena/1/dev-9/up/reported", {"v": 1, "revision": 10**30, "state": {}})
    scene.send(5)
    wait_until(lambda: scene.hub.sql("SELECT reason FROM dead_letters WHERE topic LIKE '%reported'"), 10, "what the database cannot take")
    scene.ack_that(ranges=[[5, 5]])
    assert scene.hub.numbers() == [5]


def refusals(scene: Scene) -> list[dict[str, Any]]:
    """All refusals that were sent to the device."""
    return [refusal for each in scene.device.on("dev-9/down/ack") for refusal in each.data["refused"]]


def test_nobody_speaks_for_another_device(scene: Scene) -> None:
    scene.device.say("almena/1/dev-8/up/event/cam/count", envelope(1))
    wait_until(lambda: scene.hub.sql("SELECT reason FROM dead_letters"), 10, "the dead letter")
    scene.send(2)
    scene.ack_that(ranges=[[2, 2]])
    assert scene.hub.numbers() == [2]
    assert refusals(scene) == []


def test_declared_losses_close_the_gap(scene: Scene) -> None:
    scene.send(1, 5)
    scene.ack_that(ranges=[[5, 5]])
    data = {"lane": "event", "spool": SPOOL, "reason": "evicted", "count": 3, "ranges": [[2, 4]], "since": 1.7e9, "until": 1.7e9}
    scene.device.say("almena/1/dev-9/up/loss", envelope(1, spool="f" * 16, kind="loss", stream="", data=data))
    scene.ack_that(spool="f" * 16, upto=1)
    scene.send(6)
    scene.ack_that(spool=SPOOL, upto=6)


def test_will_of_an_old_session_is_ignored(scene: Scene) -> None:
    status = "almena/1/dev-9/status"
    birth = {"v": 1, "state": "online", "session": "new", "boot_id": "b", "agent": "1", "models": {}, "lease_s": 90}
    state = "SELECT state, session FROM devices WHERE device = 'dev-9'"
    scene.device.say(status, birth)
    wait_until(lambda: scene.hub.sql(state) == [("online", "new")], 10, "the birth")
    scene.device.say(status, {"v": 1, "state": "offline", "session": "old", "reason": "lost"})
    scene.send(1)
    scene.ack_that(upto=1)
    assert scene.hub.sql(state) == [("online", "new")]
    scene.device.say(status, {"v": 1, "state": "offline", "session": "new", "reason": "lost"})
    wait_until(lambda: scene.hub.sql(state) == [("offline", "new")], 10, "the will")


def test_hub_says_goodbye(scene: Scene) -> None:
    assert scene.hub.stop() == 0
    assert wait_until(lambda: scene.device.on("hub/state")[1:], 5, "the goodbye")[0].data["state"] == "offline"
    scene.hub.start()


def test_tls_and_password(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    (tmp_path / "secret").write_text("pw\n")
    broker = Mosquitto(tmp_path / "broker", users={"hub": "pw"}, authority=authority)
    options = ("--username", "hub", "--password-file", str(tmp_path / "secret"), "--ca-file", str(authority.cert))
    with broker, Hub(tmp_path, broker.port, "5", *options) as hub:
        wait_until(lambda: "connected to" in hub.log(), 15, "the session")
        assert "as almena-hub" in broker.log()


def test_wrong_password_is_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("wrong\n")
    broker = Mosquitto(tmp_path / "broker", users={"hub": "pw"})
    with broker, Hub(tmp_path, broker.port, "5", "--username", "hub", "--password-file", str(tmp_path / "secret")) as hub:
        wait_until(lambda: "the broker refused" in hub.log(), 15, "the refusal")
        assert "connected to" not in hub.log()
        assert json.dumps("wrong") not in hub.log()


def test_a_broker_that_is_not_there_or_is_another_is_told(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger", "another")
    broker = Mosquitto(tmp_path / "broker", authority=authority)
    with Hub(tmp_path, broker.port, "5", "--ca-file", str(stranger.cert)) as hub:
        wait_until(lambda: "Connection refused; trying again" in hub.log(), 15, "that nothing listens")
        with broker:
            wait_until(lambda: "certificate verify failed" in hub.log(), 30, "that the certificate is another's")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--port", "99999"), 2, "--port: Input should be less"),
        (("--ca-file", "nofile"), 2, "--ca-file: there is no file"),
        (("--store", "foo://x"), 2, "foo is no database of the hub"),
        (("--store", "/dev/null/x.sqlite"), 2, "cannot be written"),
    ],
)
def test_options_that_cannot_be_are_told_in_a_line(tmp_path: Path, options: tuple[str, ...], code: int, said: str) -> None:
    command = [sys.executable, "-m", "fleet.ingest", *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (code, 1), result.stderr
    assert said in result.stderr
