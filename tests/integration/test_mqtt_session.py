"""The session against a real mosquitto: who may connect, what is said when not, birth, will and goodbye."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.uplink.app import Uplink
from tests.fakes import fleet
from tests.fakes.certificates import Authority
from tests.fakes.fleet import DEVICE, VERSIONS, Process, peer, write_settings
from tests.fakes.mosquitto import Mosquitto, answers
from tests.fakes.ports import free_port
from tests.fakes.uplinks import uplink
from tests.waiting import wait_until


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """MQTT 5 and 3.1.1."""
    return str(request.param)


def refused_with(one: Uplink, code: str) -> None:
    """Wait for a trouble (another one comes first where the machine stands still), and make sure that nobody claims to be connected."""
    trouble = wait_until(lambda: (said := one.status.trouble) and said.code == code and said, 10, f"{code}; {one.status.trouble}")
    assert not one.status.connected
    assert one.status.connects == 0
    assert trouble.message in one.status.text


def test_birth_and_goodbye(tmp_path: Path, version: str) -> None:
    with Mosquitto(tmp_path / "broker") as broker:
        with uplink(write_settings(tmp_path, broker.port, version=version)) as one:
            wait_until(lambda: one.status.connected, 10, "the session")
            assert one.status.protocol == version
            assert version in one.status.text
            with peer(broker.port, f"almena/1/{DEVICE}/status", version=version) as observer:
                birth = wait_until(lambda: observer.on("status"), 5, "the retained birth")[0]
                assert birth.retained
                assert birth.data["state"] == "online"
                assert birth.data["session"] == one.status.session
                one.stop()
                goodbye = wait_until(lambda: observer.on("status")[1:], 5, "the goodbye")[0]
                assert goodbye.data["state"] == "stopped"
                assert goodbye.data["session"] == birth.data["session"]
        with peer(broker.port, f"almena/1/{DEVICE}/status", version=version) as late:
            assert wait_until(lambda: late.on("status"), 5, "the retained goodbye")[0].data["state"] == "stopped"


def test_killed_process_leaves_its_will(tmp_path: Path, version: str) -> None:
    with Mosquitto(tmp_path / "broker") as broker, peer(broker.port, f"almena/1/{DEVICE}/status", version=version) as observer:
        path = write_settings(tmp_path, broker.port, version=version)
        process = Process(tmp_path, "agent.uplink", str(path))
        process.start()
        birth = wait_until(lambda: observer.on("status"), 15, "the birth")[0].data
        process.kill()
        will = wait_until(lambda: observer.on("status")[1:], 15, "the will")[0].data
        assert will == {"v": 1, "state": "offline", "session": birth["session"], "reason": "lost"}
        process.start()
        again = wait_until(lambda: observer.on("status")[2:], 15, "the next birth")[0].data
        assert again["state"] == "online"
        assert again["session"] != birth["session"]
        assert process.stop() == 0
        assert wait_until(lambda: observer.on("status")[3:], 5, "the goodbye")[0].data["state"] == "stopped"


def test_wrong_password_is_shown_and_heals(tmp_path: Path, version: str) -> None:
    broker = Mosquitto(tmp_path / "broker", users={"device": "old"})
    (tmp_path / "secret").write_text("new\n")
    path = write_settings(tmp_path, broker.port, version=version, username="device", password_file=str(tmp_path / "secret"))
    with broker, uplink(path) as one:
        refused_with(one, "MQTT_NOT_AUTHORISED")
        assert one.status.state == "refused"
        assert one.status.trouble is not None
        assert one.status.trouble.reason_code == 0x87
        assert "new" not in one.status.text
        (tmp_path / "secret").rename(tmp_path / "away")
        wait_until(lambda: "MQTT_FILE_UNREADABLE" in one.status.text, 10, "the file to be named")
        assert str(tmp_path / "secret") in one.status.text
        (tmp_path / "away").rename(tmp_path / "secret")
        broker.set_users({"device": "new"})
        broker.restart()
        wait_until(lambda: one.status.connected, 10, "the session with the right password")
        assert one.status.trouble is None


def test_wrong_ca(tmp_path: Path, version: str) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "stranger", "Another CA")
    with Mosquitto(tmp_path / "broker", authority=authority) as broker:
        tls = {"ca_file": str(stranger.cert)}
        with uplink(write_settings(tmp_path / "wrong", broker.port, version=version, tls=tls)) as one:
            refused_with(one, "MQTT_TLS_CERTIFICATE")
        tls = {"ca_file": str(authority.cert)}
        with uplink(write_settings(tmp_path / "right", broker.port, version=version, tls=tls)) as one:
            wait_until(lambda: one.status.connected, 10, "the session over TLS")


def test_client_certificate(tmp_path: Path, version: str) -> None:
    authority = Authority(tmp_path / "ca")
    pair = authority.client(DEVICE)
    with Mosquitto(tmp_path / "broker", authority=authority, client_certificates=True) as broker:
        tls = {"ca_file": str(authority.cert)}
        with uplink(write_settings(tmp_path / "without", broker.port, version=version, tls=tls)) as one:
            refused_with(one, "MQTT_TLS_CLIENT_CERTIFICATE")
        tls |= {"cert_file": str(pair.cert), "key_file": str(pair.key)}
        with uplink(write_settings(tmp_path / "with", broker.port, version=version, tls=tls)) as one:
            wait_until(lambda: one.status.connected, 10, "the session with a certificate")
            assert f"u'{DEVICE}'" in broker.log()


def test_plain_client_at_a_tls_port(tmp_path: Path, version: str) -> None:
    with (
        Mosquitto(tmp_path / "broker", authority=Authority(tmp_path / "ca")) as broker,
        uplink(write_settings(tmp_path, broker.port, version=version)) as one,
    ):
        refused_with(one, "MQTT_CLOSED")
        assert "TLS" in one.status.text


def test_tls_client_at_a_plain_port(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    with (
        Mosquitto(tmp_path / "broker") as broker,
        uplink(write_settings(tmp_path, broker.port, tls={"ca_file": str(authority.cert)})) as one,
    ):
        wait_until(lambda: one.status.trouble is not None, 10, "the trouble")
        assert one.status.trouble is not None
        assert one.status.trouble.code in ("MQTT_TLS", "MQTT_UNREACHABLE")
        assert not one.status.connected


def test_unknown_host(tmp_path: Path) -> None:
    with uplink(write_settings(tmp_path, 1883, host="no-such-host.invalid")) as one:
        refused_with(one, "MQTT_HOST_NOT_FOUND")


def test_broker_that_comes_later(tmp_path: Path, version: str) -> None:
    broker = Mosquitto(tmp_path / "broker")
    with uplink(write_settings(tmp_path, broker.port, version=version)) as one:
        refused_with(one, "MQTT_CONNECTION_REFUSED")
        assert one.status.state == "waiting"
        with broker:
            wait_until(lambda: one.status.connected, 10, "the session")
        wait_until(lambda: not one.status.connected, 10, "the loss to be noticed")


def test_second_client_of_the_same_name_is_suspected(tmp_path: Path, version: str) -> None:
    with Mosquitto(tmp_path / "broker") as broker, uplink(write_settings(tmp_path, broker.port, version=version)) as one:
        wait_until(lambda: one.status.connected, 10, "the session")
        troubles: list[str] = []

        def suspected() -> bool:
            troubles.append(one.status.text)
            return "another client may be using this device's name" in troubles[-1]

        with peer(broker.port, name=DEVICE, version=version):
            wait_until(suspected, 10, "the suspicion to be shown")


def embedded(tmp_path: Path) -> tuple[Process, int]:
    """The embedded broker, ready."""
    port = free_port()
    process = Process(tmp_path, "agent.broker", "--port", str(port))
    process.start()
    wait_until(lambda: answers(port), 20, "the embedded broker")
    return process, port


def test_auto_falls_back_on_the_embedded_broker(tmp_path: Path) -> None:
    broker, port = embedded(tmp_path)
    with uplink(write_settings(tmp_path / "auto", port, delivery="hub")) as one:
        wait_until(lambda: one.status.connected, 10, "the session at 3.1.1")
        assert one.status.protocol == "3.1.1"
        producer = fleet.Producer(one.settings)
        producer.add(100)
        with fleet.Hub(tmp_path / "hub", port, "auto") as hub:
            fleet.stored_once(hub, producer)
        producer.close()
    assert broker.stop() == 0


def test_version_5_alone_does_not_fall_back(tmp_path: Path) -> None:
    broker, port = embedded(tmp_path)
    with uplink(write_settings(tmp_path / "five", port, version="5")) as one:
        refused_with(one, "MQTT_VERSION")
        assert one.status.state == "refused"
    broker.stop()


def test_embedded_broker_says_when_its_port_is_taken(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker") as other:
        process = Process(tmp_path, "agent.broker", "--port", str(other.port))
        process.start()
        assert process.wait() == 1
        assert "cannot listen" in process.log()
