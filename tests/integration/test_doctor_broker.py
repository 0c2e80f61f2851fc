"""What `almena doctor` says of the broker of a device with a certificate, while its agent runs and while it does not."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from agent.checkup import Check
from agent.checkup.broker import answers, broker_check
from agent.uplink.app import Uplink
from provisioning.ca import Authority
from tests.fakes.fleet_site import HASTY, FleetSite
from tests.waiting import wait_until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FleetSite]:
    with FleetSite(tmp_path / "fleet") as one:
        one.trial.start()
        yield one


@pytest.fixture
def device(site: FleetSite, tmp_path: Path) -> Iterator[Uplink]:
    """A device that has joined; its uplink is started by the test."""
    path = tmp_path / "d" / "almena.yaml"
    path.parent.mkdir()
    path.write_text("state_dir: s\nweb: {enabled: false}\ntelemetry: {period_s: 3600}\n")
    site.join(path)
    uplink = Uplink(path, HASTY)
    yield uplink
    uplink.stop()


def now(device: Uplink, **changed: object) -> Check:
    """What doctor says at once, of these settings."""
    device.look()
    return broker_check(device.settings.model_copy(update=changed))


def checked(device: Uplink, text: str) -> Check:
    """What doctor says once the uplink has got so far that it says this."""

    def told() -> Check | None:
        found = now(device)
        return found if text in found.text else None

    return wait_until(told, 30, text)


def test_nobody_listens_where_a_path_is_too_long(tmp_path: Path) -> None:
    assert not answers(tmp_path / ("x" * 108))


def test_a_device_whose_agent_is_connected_keeps_its_session(device: Uplink) -> None:
    assert "accepts this device with MQTT 5" in broker_check(device.settings).text
    device.start()
    wait_until(lambda: device.status.connected, 30, "the session")
    for _ in range(3):
        found = checked(device, "takes this device's certificate; the uplink is connected since 2")
        assert (found.state, "Connected to 127.0.0.1" in found.text) == ("ok", True)
    assert device.status.connects == 1, "no look has taken the session over"


def test_a_broker_that_goes_is_told_by_the_handshake_and_by_the_uplink(site: FleetSite, device: Uplink) -> None:
    device.start()
    wait_until(lambda: device.status.connected, 30, "the session")
    began = device.status.since
    site.trial.stop()
    found = checked(device, "the uplink is not connected since")
    assert (found.state, "nothing listens at" in found.text, "MQTT_CONNECTION_REFUSED" in found.text) == ("fail", True, True)
    assert device.status.since > began
    site.trial.start()
    found = checked(device, "the uplink is connected since")
    assert found.state == "ok"
    assert "last trouble, 2" in found.text
    assert "(MQTT_CONNECTION_" in found.text.partition("last trouble")[2]


def test_what_no_longer_fits_is_found_while_the_old_session_goes_on(site: FleetSite, device: Uplink, tmp_path: Path) -> None:
    """Another CA in its file, another server at the port, a certificate of another fleet."""
    device.start()
    checked(device, "the uplink is connected")
    folder, mqtt = device.settings.identity_dir, device.settings.mqtt
    assert mqtt is not None
    shutil.copy(folder / "ca.pem", tmp_path / "ca.pem")
    (folder / "ca.pem").write_bytes(Authority.new("Almena fleet").pem)
    found = now(device)
    assert (found.state, "is not accepted" in found.text, "mqtt.tls.ca_file" in found.advice) == ("fail", True, True)
    assert "the uplink is connected since" in found.text
    shutil.copy(tmp_path / "ca.pem", folder / "ca.pem")
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        other = mqtt.model_copy(update={"port": silent.getsockname()[1]})
        found = now(device, mqtt=other)
        assert (found.state, "does not answer" in found.text) == ("fail", True)
    own, stranger = (folder / "device.pem").read_bytes(), Authority.new("Almena fleet")
    (folder / "device.pem").write_bytes(stranger.client("cam-1", timedelta(days=1)).pem)
    found = now(device)
    assert (found.state, "MQTT_TLS_CLIENT_CERTIFICATE" in found.text, "mqtt.tls.cert_file" in found.advice) == ("fail", True, True)
    (folder / "device.pem").write_bytes(own)
    assert now(device).state == "ok"
    assert device.status.connects == 1


def test_a_device_that_was_revoked(site: FleetSite, device: Uplink) -> None:
    device.start()
    wait_until(lambda: device.status.connected, 30, "the session")
    site.trial.revoke("cam-1")
    found = checked(device, "the uplink is not connected")
    assert (found.state, "MQTT_TLS_CLIENT_CERTIFICATE" in found.text, "almena join" in found.advice) == ("fail", True, True)


def test_an_uplink_that_says_nothing(device: Uplink) -> None:
    """Dead, or hanging, beside a vision process that answers; what it said long ago does not count."""
    file = device.settings.state_dir / "run" / "broker.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"at": time.time() - 61, "connected": True, "since": 0.0, "text": "Connected."}))
    assert "accepts this device" in broker_check(device.settings).text, "nobody is there whose session would end"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as vision:
        vision.bind(str(device.settings.control_socket))
        vision.listen()
        found = broker_check(device.settings)
        assert (found.state, "the uplink does not say how its session is" in found.text) == ("warn", True)
        file.write_text("{")
        assert broker_check(device.settings).state == "warn"
