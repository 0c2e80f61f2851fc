"""The hub's door over real TLS: who comes in, and who does not."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import h11
import pytest
from fastapi import APIRouter
from starlette.requests import Request
from starlette.websockets import WebSocket

from agent import serving
from agent.checkup.door import door_checks
from agent.errors import AlmenaError
from agent.hub_settings import HubLinkSettings
from agent.serving import body_of
from agent.settings import Settings
from agent.uplink.door import Door, DoorError, DoorRefusedError
from fleet.door.server import Device, DoorServer, device_of
from provisioning.ca import Authority, write_private
from tests.fakes.door_site import DAY, DoorSite
from tests.waiting import wait_until


def echo() -> APIRouter:
    router = APIRouter()

    @router.get("/who")
    def who(device: Device) -> dict[str, str]:
        return {"device": device}

    @router.put("/things")
    async def put(device: Device, request: Request) -> dict[str, object]:
        return {"device": device, "size": len(await body_of(request, 1000))}

    @router.websocket("/talk")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(device_of(socket))
        await socket.send_bytes(await socket.receive_bytes())
        await socket.close()

    return router


class Site(DoorSite):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.server = DoorServer(self.settings(), lambda stopping: (echo(),))

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.port}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "fleet")
    site.server.start()
    yield site
    site.server.stop()


def test_a_device_is_known_by_its_certificate_for_requests_and_sockets(site: Site) -> None:
    door = Door(site.url, site.device("cam-1"))
    assert door.get("") == door.get("/who") == b'{"device":"cam-1"}'
    assert door.put("/things", b"x" * 1000, "image/jpeg") == b'{"device":"cam-1","size":1000}'
    with door.connect("/talk") as talk:
        assert talk.recv(60) == "cam-1"
        talk.send(b"\xff" * 100_000)
        assert talk.recv(60) == b"\xff" * 100_000
    with pytest.raises(DoorRefusedError, match="413") as refused:
        door.put("/things", b"x" * 1001, "image/jpeg")
    assert refused.value.status == 413
    with pytest.raises(DoorRefusedError, match="404"):
        door.get("/nothing")


def test_a_socket_lives_longer_than_a_body_may_take(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(serving.WITHIN_S, h11.SEND_BODY, 0.2)
    with Door(site.url, site.device("cam-1")).connect("/talk") as talk:
        assert talk.recv(60) == "cam-1"
        time.sleep(1.0)
        talk.send(b"still here")
        assert talk.recv(60) == b"still here"


def test_a_renewed_certificate_is_shown_to_those_who_come_and_a_broken_one_is_not(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    address, file = ("127.0.0.1", site.server.port), site.settings().certificate
    old, door = ssl.get_server_certificate(address, timeout=60), Door(site.url, site.device("cam-1"))
    with door.connect("/talk") as talk:
        assert talk.recv(60) == "cam-1"
        pair = site.authority.server(["localhost", "127.0.0.1"], DAY)
        write_private(file, pair.pem)
        wait_until(lambda: ssl.get_server_certificate(address, timeout=60) != old, 3, "the new certificate")
        new = ssl.get_server_certificate(address, timeout=60)
        assert new.encode() in pair.pem
        write_private(file, site.authority.server(["localhost"], DAY).pem.replace(b"PRIVATE", b"LOST"))
        wait_until(lambda: "the old one stays" in caplog.text, 3, "the broken certificate in the log")
        assert ssl.get_server_certificate(address, timeout=60) == new
        assert door.get("/who") == b'{"device":"cam-1"}'
        talk.send(b"still here")
        assert talk.recv(60) == b"still here"


def test_without_a_certificate_of_the_fleet_nothing_is_answered(site: Site) -> None:
    stranger = site.device("cam-1", authority=Authority.new("Test fleet"))
    with pytest.raises(DoorError, match="of the hub's fleet") as refused:
        Door(site.url, stranger).get("/who")
    assert not isinstance(refused.value, DoorRefusedError)
    nobody = ssl.create_default_context(cafile=str(stranger.ca))
    address = ("127.0.0.1", site.server.port)
    assert _spoken(nobody, address) == b""


def _spoken(context: ssl.SSLContext, address: tuple[str, int]) -> bytes:
    """What the door answers; with TLS 1.3 it refuses only after the handshake is over for this side."""
    with socket.create_connection(address, 60) as raw, context.wrap_socket(raw, server_hostname="localhost") as tls:
        try:
            tls.sendall(b"GET /door/1/who HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return tls.recv(1)
        except OSError:
            return b""


@pytest.mark.parametrize("name", ["hub", "hub.2", "fleet.watch"])
def test_the_fleet_s_own_certificates_are_no_devices(site: Site, name: str) -> None:
    with pytest.raises(DoorRefusedError, match="403") as refused:
        Door(site.url, site.device(name)).get("/who")
    assert name in str(refused.value)


def test_a_revoked_device_stays_outside_at_once_and_for_sockets_too(site: Site, tmp_path: Path) -> None:
    identity, other = site.device("cam-1", folder=tmp_path / "state" / "identity"), site.device("cam-2")
    door = Door(site.url, identity)
    door.get("/who")
    settings = Settings.model_construct(hub=HubLinkSettings(url=site.url), state_dir=identity.path.parent)
    assert [check.state for check in door_checks(settings)] == ["ok"]
    site.revoke(identity)
    assert [check.state for check in door_checks(settings)] == ["fail"]
    with pytest.raises(DoorRefusedError, match=r"403.*almena join"):
        door.get("/who")
    with pytest.raises(DoorError):
        door.connect("/talk")
    assert b"cam-2" in Door(site.url, other).get("/who")


def test_while_the_list_of_revoked_certificates_cannot_be_read_nobody_comes_in(site: Site) -> None:
    door = Door(site.url, site.device("cam-1"))
    crl = site.settings().crl
    assert crl is not None
    good = crl.read_bytes()
    crl.write_bytes(Authority.new("Test fleet").crl([]))
    with pytest.raises(DoorError, match="503"):
        door.get("/who")
    crl.write_bytes(good)
    door.get("/who")


def test_a_door_that_is_away_or_another_server_says_what_to_do(site: Site, tmp_path: Path) -> None:
    identity = site.device("cam-1")
    site.server.stop()
    with pytest.raises(DoorError, match=r"nothing listens.*hub\.url"):
        Door(site.url, identity).get("/who")
    other = Site(tmp_path / "other")
    other.server.start()
    try:
        with pytest.raises(DoorError, match=r"is not accepted.*hub\.url"):
            Door(other.url, identity).get("/who")
    finally:
        other.server.stop()
    with pytest.raises(DoorError):
        Door(f"{site.url}/ä", identity).get("/who")
    identity.device.unlink()
    with pytest.raises(DoorError, match="almena join"):
        Door(site.url, identity).get("/who")


def test_files_of_no_use_are_named_at_the_start(tmp_path: Path) -> None:
    site = DoorSite(tmp_path)
    empty = tmp_path / "empty.pem"
    empty.touch()
    for key, wanted in (("client_ca", "door.client_ca"), ("crl", "door.crl"), ("certificate", "door: certificate")):
        with pytest.raises(AlmenaError, match=wanted):
            DoorServer(site.settings(**{key: empty}), lambda stopping: ())
