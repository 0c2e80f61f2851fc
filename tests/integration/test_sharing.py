"""Identities shared over the fleet: real galleries with the real models, the hub's door over TLS, its API."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select, update
from starlette.applications import Starlette

from agent import settings as agent_settings
from agent.hub_settings import HubLinkSettings
from agent.outbox import Outbox
from agent.serving import HANDLERS, ThreadedServer
from agent.sharing.protocol import Box
from agent.uplink import sharing
from agent.uplink.door import Door, DoorRefusedError
from agent.uplink.hub_link import HubLink
from agent.uplink.shared_at import SharedAt
from agent.uplink.status import UplinkStatus
from agent.uplink.vision_link import VisionLink
from agent.vision import erasure
from agent.vision.control_socket import listening
from agent.vision.erasure import Housekeeping
from agent.vision.face_control import FaceControl
from agent.vision.face_kit import FaceKit
from agent.vision.sharing import sharing_routes
from fleet.hub import opened
from fleet.identities import ledger
from fleet.identities.keeper import Keeper
from fleet.store.database import writing
from fleet.store.erased_list import ErasedList
from fleet.store.tables import audit, commands, events
from provisioning.ca import Authority
from tests.fakes.door_site import DoorSite
from tests.fakes.face_events import face_data
from tests.fakes.hub_api import HubApi
from tests.waiting import wait_until

API = "/api/v1"
GRACE = "Grace Hopper"


class Device:
    """The gallery of a vision process behind its control socket, and the uplink's thread that shares it."""

    def __init__(self, name: str, folder: Path, site: Fleet, models_dir: Path, engines_dir: Path) -> None:
        self.name = name
        folder.mkdir()
        engines_dir.mkdir(parents=True, exist_ok=True)
        (folder / "engines").symlink_to(engines_dir)
        base = agent_settings.Settings(state_dir=folder, engines=agent_settings.EngineSettings(models_dir=models_dir))
        self.settings = base.model_copy(update={"hub": HubLinkSettings(url=site.url, identities=True)})
        self.outbox = Outbox.open(folder / "outbox", name, base.outbox)
        self.identity = site.doors.device(name, folder=folder / "identity")
        self.door = Door(site.url, self.identity)
        self.faces = FaceControl(self.settings, self.outbox)
        control = Starlette(routes=sharing_routes(lambda: self.faces.shared), exception_handlers=HANDLERS)
        self.control = ThreadedServer(control, listening(self.settings.control_socket), "control")
        self.housekeeping = Housekeeping(self.settings, self.outbox, lambda: None)
        link = VisionLink(self.settings.control_socket)
        self.status = UplinkStatus()
        self.link = HubLink(self.settings.hub, self.identity, link, self.outbox, self.status, folder)
        self.sharing = ExitStack()

    def start(self, stops: ExitStack) -> None:
        stops.callback(self.outbox.close)
        stops.callback(FaceKit.open(self.settings).close)
        stops.callback(self.faces.close)
        self.housekeeping.start()
        stops.callback(self.housekeeping.stop)
        self.control.start()
        stops.callback(self.control.stop)
        self.link.start(self.sharing)
        stops.callback(self.sharing.close)

    def told(self) -> None:
        """The hub's command."""
        self.link.handlers()[ledger.SYNC]({})

    def enrol(self, name: str, photograph: Path, consent: str = "") -> str:
        identity: str = self.faces.create(name, consent, None)["id"]
        answer = self.faces.add_image(identity, photograph.read_bytes())
        assert answer["accepted"], answer
        return identity

    def names(self) -> list[str]:
        return [one["name"] for one in self.faces.identities()]

    def sees(self, photograph: Path) -> str | None:
        """Whom the models take a photograph for."""
        name: str | None = self.faces.recognise(photograph.read_bytes())[0]["name"]
        return name

    def audits(self) -> list[tuple[str, str]]:
        rows = [json.loads(row.payload)["data"] for row in self.outbox.pending("audit", 1000)]
        return [(row["action"], row["outcome"]) for row in rows]


class Fleet(HubApi):
    """The hub with its door. What it would say over the broker, `deliver` says to devices."""

    def __init__(self, folder: Path) -> None:
        self.doors = DoorSite(folder / "fleet")
        door = self.doors.settings()
        super().__init__(folder, door=door)
        self.server_door = opened(self.context, door)
        self.url = f"https://127.0.0.1:{self.server_door.port}"
        self.keeper = Keeper(self.engine, ErasedList(folder / "erased"), 0.05)
        self.members: list[Device] = []

    def until(self, true: Callable[[], object], what: str) -> None:
        def looked() -> bool:
            self.deliver()
            return bool(true())

        wait_until(looked, 60, what)

    def deliver(self) -> None:
        with writing(self.engine) as connection:
            query = select(commands.c.device).where(commands.c.name == ledger.SYNC, commands.c.state != "done")
            told = set(connection.execute(query).scalars())
            connection.execute(update(commands).where(commands.c.name == ledger.SYNC).values(state="done"))
        for device in self.members:
            if device.name in told:
                device.told()


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models_dir: Path, engines_dir: Path) -> Iterator[Fleet]:
    monkeypatch.setattr(erasure, "SETTLE_S", 0.2)
    monkeypatch.setattr(erasure, "TICK_S", 0.1)
    monkeypatch.setattr(sharing, "LOOK_S", 0.05)
    with ExitStack() as stops, Fleet(tmp_path) as fleet:
        fleet.server_door.start()
        stops.callback(fleet.server_door.stop)
        fleet.keeper.start()
        stops.callback(fleet.keeper.stop)
        for name in ("cam-1", "cam-2"):
            fleet.device(name, site="lab")
            device = Device(name, tmp_path / name, fleet, models_dir, engines_dir)
            fleet.members.append(device)
            device.start(stops)
        yield fleet


def everything(fleet: Fleet, folder: Path) -> bytes:
    """All that the hub has on its disk, and all that it has said over the broker."""
    files = [path.read_bytes() for path in folder.glob("hub.sqlite*")]
    return b"".join(files) + json.dumps(fleet.link.published).encode()


def test_enrolled_on_one_known_on_the_other_and_erased_on_both_with_receipts(
    fleet: Fleet, portraits: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grace = portraits["grace-hopper"]
    one, other = fleet.members
    operator = fleet.client("operator")
    assert "share identities" in fleet.almena("identities", "share", "lab")
    identity = one.enrol(GRACE, grace, "public domain")

    fleet.until(lambda: other.names() == [GRACE], "the identity on the other device")
    assert other.sees(grace) == GRACE
    fleet.until(lambda: _states(operator, identity) == {"cam-1": "there", "cam-2": "there"}, "both at the hub")
    [shared] = operator.get(f"{API}/identities").json()["identities"]
    assert (shared["name"], shared["consent"], shared["origin"], shared["site"]) == (GRACE, "public domain", "cam-1", "lab")

    secrets = [one.faces.pictures(identity)[0][200:240], one.faces.kit.gallery.candidates.matrix[0].tobytes()[:24]]
    kept = everything(fleet, tmp_path)
    assert not [secret for secret in secrets if secret in kept]

    seen = json.dumps({"kind": "face", "data": face_data("new", GRACE, 100.0, identity=identity)}).encode()
    fleet.event("cam-2", 1, None, subject=GRACE, payload=seen)
    assert operator.post(f"{API}/identities/{identity}/erase").status_code == 403
    assert "cam-1: there, cam-2: there" in fleet.almena("identities", "list", "grace")
    assert "is erased here; on the devices: cam-1: erasing, cam-2: erasing" in fleet.almena("identities", "erase", identity, "--yes")
    fleet.until(lambda: _states(operator, identity) == {"cam-1": "erased", "cam-2": "erased"}, "both receipts")
    assert (one.names(), other.names()) == ([], [])
    assert other.sees(grace) is None
    found = operator.get(f"{API}/identities/{identity}").json()
    assert (found["name"], found["consent"], found["state"]) == ("", "", "erased")
    assert {copy["device"]: (copy["receipt"]["reason"], copy["receipt"]["pictures"]) for copy in found["copies"]} == {
        "cam-1": ("ordered", 1),
        "cam-2": ("ordered", 1),
    }
    with fleet.engine.connect() as connection:
        assert GRACE.encode() not in connection.execute(select(events.c.payload)).scalar_one()
        noted = {(row.actor, row.action) for row in connection.execute(select(audit))}
    both = {("cam-1", identity), ("cam-2", identity)}
    wait_until(lambda: ErasedList(tmp_path / "erased").read() == both, 20, "both in the list outside the database")
    assert {("cam-1", "identity share"), ("cam-2", "identity erased")} <= noted
    assert next(actor for actor, action in noted if action == "identity erase").startswith("key:")
    assert ("identity share", "done") in one.audits()
    assert {("identity take", "done"), ("identity erase", "done")} <= set(other.audits())
    assert GRACE not in caplog.text


def _states(client: httpx.Client, identity: str) -> dict[str, str]:
    answer = client.get(f"{API}/identities/{identity}")
    return {copy["device"]: copy["state"] for copy in answer.json()["copies"]} if answer.status_code == 200 else {}


def test_who_may_have_a_box_and_who_may_not(fleet: Fleet, portraits: dict[str, Path], tmp_path: Path) -> None:
    one, other = fleet.members
    admin = fleet.client("admin")
    identity = one.enrol(GRACE, portraits["grace-hopper"])
    box = f"/sharing/boxes/{identity}/2"
    with pytest.raises(DoorRefusedError, match="no such box"):
        other.door.get(box)
    wait_until(lambda: _members(admin) == ["cam-1", "cam-2"], 60, "both devices at the hub")
    admin.put(f"{API}/sharing", json={"site": "lab", "enabled": True})
    one.told()
    sealed = wait_until(lambda: _box(other.door, box), 60, "the box, which the other device has not heard of")
    fleet.until(lambda: other.names() == [GRACE], "the identity on the other device")
    fleet.until(lambda: _box(other.door, box) is None, "the box to go once it is taken")
    with pytest.raises(DoorRefusedError, match="no such box"):
        one.door.get(box)
    stranger = Door(fleet.url, fleet.doors.device("cam-2", Authority.new("Another fleet"), tmp_path / "stranger"))
    with pytest.raises(Exception, match=r"TLS|broke off"):
        stranger.get(box)
    fleet.device("cam-3", site="yard")
    outsider = Door(fleet.url, fleet.doors.device("cam-3"))
    with pytest.raises(DoorRefusedError, match="no such box"):
        outsider.get(box)
    with pytest.raises(DoorRefusedError, match="nobody waits"):
        outsider.put("/sharing/boxes", sealed.model_dump_json().encode(), "application/json")
    with pytest.raises(DoorRefusedError, match="another device's"):
        outsider.post("/sharing/sync", {"key": _key_of(fleet, "cam-2")})

    admin.patch(f"{API}/devices/cam-2", json={"site": "yard"})
    fleet.until(lambda: other.names() == [], "the device that left to erase what it got")
    with pytest.raises(DoorRefusedError, match="no such box"):
        other.door.get(box)
    twins = [device.enrol("Twin", portraits["astronaut"]) for device in fleet.members]
    admin.patch(f"{API}/devices/cam-2", json={"site": "lab"})
    fleet.until(lambda: other.names() == [GRACE, "Twin"], "the identity after it came back")
    fleet.until(lambda: len(one.status.sharing_declined) == len(other.status.sharing_declined) == 1, "the twins to be declined")
    assert "Identities of other devices are not taken: " in other.status.text
    for device, twin in zip(fleet.members, twins, strict=True):
        device.faces.erase(twin)
    fleet.until(lambda: one.names() == other.names() == [GRACE], "the twins to go")

    # erased by the one who enrolled: erased everywhere, and the hub cannot bring it back
    one.faces.erase(identity)
    fleet.until(lambda: other.names() == [], "the erasure on the other device")
    fleet.until(lambda: set(_states(admin, identity).values()) == {"erased"}, "both receipts")
    replayed = {"label": sealed.label.model_dump(), "sealed": sealed.sealed}
    assert "erased here" in VisionLink(other.settings.control_socket).post("/sharing/take", replayed)[1]["declined"]
    assert other.names() == []


def test_settings_that_name_no_door_any_more(fleet: Fleet, portraits: dict[str, Path]) -> None:
    """What the device got goes, and from the others what it gave; what it enrolled stays."""
    one, other = fleet.members
    admin = fleet.client("admin")
    wait_until(lambda: _members(admin) == ["cam-1", "cam-2"], 60, "both devices at the hub")
    admin.put(f"{API}/sharing", json={"site": "lab", "enabled": True})
    one.enrol("Eileen", portraits["astronaut"])
    other.enrol("Somebody", portraits["grace-hopper"])
    fleet.until(lambda: one.names() == other.names() == ["Eileen", "Somebody"], "both on both")
    other.sharing.close()
    other.housekeeping.stop()
    closed = other.settings.model_copy(update={"hub": None})
    leaving = HubLink(None, other.identity, VisionLink(closed.control_socket), other.outbox, other.status, closed.state_dir)
    keeping = Housekeeping(closed, other.outbox, lambda: None)
    leaving.start(other.sharing)
    keeping.start()
    fleet.until(lambda: (one.names(), other.names()) == (["Eileen"], ["Somebody"]), "each to know its own only")
    fleet.until(lambda: _shared(admin) == ["Eileen"], "the hub to forget what is shared no longer")
    assert _members(admin) == ["cam-1"]
    wait_until(lambda: SharedAt(closed.state_dir).url == "", 30, "the device to know that it has left")
    keeping.stop()


def _box(door: Door, place: str) -> Box | None:
    try:
        return Box.model_validate_json(door.get(place))
    except DoorRefusedError:
        return None


def _shared(client: httpx.Client) -> list[str]:
    return [person["name"] for person in client.get(f"{API}/identities?state=shared").json()["identities"]]


def _members(client: httpx.Client) -> list[str]:
    found: list[str] = next(site["devices"] for site in client.get(f"{API}/sharing").json()["sites"] if site["site"] == "lab")
    return found


def _key_of(fleet: Fleet, device: str) -> Any:
    with fleet.engine.connect() as connection:
        return json.loads(connection.execute(select(ledger.sharing_keys.c.key).where(ledger.sharing_keys.c.device == device)).scalar_one())
