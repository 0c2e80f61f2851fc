"""Pictures and live views from a device to a hub: real TLS, the hub's own API and store, the agent's own uplink and control socket."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from agent.errors import UsageError
from agent.hub_settings import HubLinkSettings
from agent.uplink.door import Door, DoorError, DoorRefusedError
from agent.uplink.door_pictures import Pictures
from agent.uplink.hub_link import HubLink
from agent.uplink.status import UplinkStatus
from agent.uplink.vision_link import VisionError
from agent.vision.pictures import decode
from fleet.door import live
from tests.fakes.face_events import face
from tests.fakes.picture_site import DEVICE, PictureSite, looked
from tests.waiting import wait_until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[PictureSite]:
    with ExitStack() as stops:
        yield PictureSite(tmp_path, stops)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PictureSite]:
    """One for those tests that leave it as it was, but for pictures."""
    with ExitStack() as stops:
        yield PictureSite(tmp_path_factory.mktemp("kept"), stops)


def metric(site: PictureSite, name: str) -> float:
    found = re.search(rf"^almena_hub_{name} (\S+)$", site.operator.get("metrics").text, re.MULTILINE)
    assert found
    return float(found[1])


def waiting(site: PictureSite, count: int) -> None:
    wait_until(lambda: site.pictures.state()["waiting"] == count, 20, f"{count} pictures to wait")


def test_a_face_reaches_the_hub_after_its_event_and_is_kept_encrypted_until_then(site: PictureSite) -> None:
    envelope = site.sees(face(box=[100, 100, 180, 200]))
    site.sees(face("end", box=[100, 100, 180, 200]))
    waiting(site, 1)
    (file,) = site.pictures.folder.glob("*.sealed")
    assert b"JFIF" not in file.read_bytes()
    sender = Pictures(site.door, site.vision, site.status, 0.05)
    sender.start()
    try:
        wait_until(lambda: site.status.pictures_waiting == 1, 20, "the sender to have looked")
        assert not site.status.door_trouble
        address = site.stored(envelope)
        waiting(site, 0)
    finally:
        sender.stop()
    assert list(site.pictures.folder.iterdir()) == []
    answer = site.operator.get(address)
    assert answer.headers["content-type"] == "image/jpeg"
    assert max(decode(answer.content).shape) <= 512
    assert (metric(site, "pictures"), metric(site, "picture_bytes")) == (1, len(answer.content))
    (listed,) = site.operator.get("api/v1/events").json()["events"]
    assert listed["picture"] is True
    assert site.hub.client("viewer").get(address).status_code == 403


def test_while_the_door_is_away_pictures_wait_and_whoever_is_erased_is_sent_no_more(site: PictureSite) -> None:
    site.sees(face(box=[100, 100, 180, 200]))
    waiting(site, 1)
    Pictures(Door(f"{site.url}/elsewhere", site.fleet.device("cam-3")), site.vision, site.status)._look()
    assert "404" in site.status.door_trouble
    assert site.pictures.state()["waiting"] == 1
    site.server.stop()
    sender = Pictures(site.door, site.vision, site.status, 0.05)
    sender.start()
    try:
        wait_until(lambda: "nothing listens" in site.status.door_trouble, 20, "the trouble to be told")
        assert "Pictures do not reach the hub" in site.status.text
    finally:
        sender.stop()
    site.pictures.forget()
    assert site.pictures.state() == {"events": [], "waiting": 0, "lost": 0}


def test_pictures_that_cannot_be_made_or_kept_are_counted(site: PictureSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.sees(face(box=[5000, 5000, 5100, 5100]))
    wait_until(lambda: site.pictures.state()["lost"] == 1, 20, "the loss to be counted")
    monkeypatch.setattr("agent.vision.event_pictures.MOST_BYTES", 1)
    site.sees(face(box=[100, 100, 180, 200]))
    wait_until(lambda: site.pictures.state()["lost"] == 2, 20, "the second loss to be counted")
    assert site.pictures.state()["waiting"] == 0


def test_only_jpegs_of_a_bounded_size_are_taken(kept: PictureSite) -> None:
    envelope = kept.sees(face())
    kept.stored(envelope)
    address = f"/events/{'/'.join(envelope['id'].split('/')[1:])}/picture"
    before = metric(kept, "refused_pictures_total")
    for body, status in ((b"", 422), (b"GIF89a", 422), (b"\xff\xd8\xff\xd9", 422), (bytes(300_000), 413)):
        with pytest.raises(DoorRefusedError, match=str(status)):
            kept.door.put(address, body, "image/jpeg")
    assert metric(kept, "refused_pictures_total") == before + 4


def test_a_device_reaches_its_own_events_alone(kept: PictureSite) -> None:
    """Whatever another one sends is under its own name: the events of this one are not there."""
    envelope = kept.sees(face(box=[100, 100, 180, 200]))
    address = kept.stored(envelope)
    spool, seq = envelope["id"].split("/")[1:]
    wait_until(lambda: f"{spool}/{seq}" in kept.pictures.state()["events"], 20, "the picture")
    other = Door(kept.url, kept.fleet.device("cam-2"))
    refused = metric(kept, "refused_pictures_total")
    with pytest.raises(DoorError, match="425"):
        other.put(f"/events/{spool}/{seq}/picture", kept.pictures.picture(spool, int(seq)), "image/jpeg")
    assert metric(kept, "refused_pictures_total") == refused
    assert kept.operator.get(address).status_code == 404


def test_a_snapshot_is_taken_when_somebody_asks_and_only_then(kept: PictureSite) -> None:
    taken = kept.link.handlers()["snapshot"]({"stream": "door"})
    (listed,) = kept.operator.get(f"api/v1/devices/{DEVICE}/snapshots").json()["snapshots"]
    assert (listed["id"], listed["stream"], listed["size"]) == (taken["snapshot"], "door", taken["bytes"])
    picture = kept.operator.get(f"api/v1/devices/{DEVICE}/snapshots/{listed['id']}")
    assert np.asarray(decode(picture.content)).shape == (360, 640, 3)
    with pytest.raises(VisionError, match="no stream"):
        kept.link.handlers()["snapshot"]({"stream": "roof"})


def test_what_the_device_s_settings_do_not_allow_is_refused(kept: PictureSite) -> None:
    closed = HubLink(None, kept.fleet.device("closed"), kept.vision, kept.outbox, kept.status, kept.settings.state_dir).handlers()
    for command in ("snapshot", "live"):
        with pytest.raises(UsageError, match=r"settings do not allow.*hub\."):
            closed[command]({"stream": "door", "token": "t", "seconds": 5})


def test_what_hinders_sharing_stands_in_the_status(kept: PictureSite) -> None:
    """This vision process has no gallery."""
    settings, status = HubLinkSettings(url=kept.url, identities=True), UplinkStatus(state="connected")
    with ExitStack() as stops:
        HubLink(settings, kept.fleet.device("cam-4"), kept.vision, kept.outbox, status, kept.settings.state_dir).start(stops)
        wait_until(lambda: "Identities are not shared: " in status.text, 30, "the trouble to be told")


def test_a_live_picture_goes_on_while_somebody_looks_and_both_sides_write_it_down(
    kept: PictureSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "NOBODY_S", 0.2)
    with kept.obeying():
        assert kept.hub.client("viewer").post(f"api/v1/devices/{DEVICE}/live", json={"stream": "door"}).status_code == 403
        began = time.time()
        answer = kept.operator.post(f"api/v1/devices/{DEVICE}/live", json={"stream": "door"})
        assert answer.status_code == 200, answer.text
        view = answer.json()["id"]
        wait_until(lambda: kept.status.watched, 10, "the device to say that somebody looks")
        assert kept.status.watched[0]["stream"] == "door"
        assert kept.status.watched[0]["since"] >= began - 1
        assert kept.operator.post(f"api/v1/devices/{DEVICE}/live", json={"stream": "door"}).json()["id"] == view
        refused = kept.operator.post(f"api/v1/devices/{DEVICE}/live", json={"stream": "roof"})
        assert (refused.status_code, "no stream" in refused.json()["detail"]) == (409, True)
        pictures = looked(kept.operator, view, 3)
        assert len(set(pictures)) == 3
        assert decode(pictures[0]).shape == (360, 640, 3)
        assert kept.operator.get(f"api/v1/live-views/{view}").json()["silent_s"] < 10
        wait_until(lambda: not kept.status.watched, 15, "the device to end it after the last viewer has left")
        assert kept.operator.get(f"api/v1/live-pictures/{view}").status_code == 404
        assert kept.operator.get(f"api/v1/live-views/{view}").json()["ended"] == "nobody looks any more"
        wait_until(lambda: "live end" in kept.audited(), 10, "the end in the hub's audit")
        assert [action for action in kept.audited() if "live" in action] == [
            "live begin",
            "command live",
            "live begin",
            "live begin",
            "command live",
            "live end",
        ]
        told = [entry["data"]["outcome"] for entry in kept.outbox.history(lane="audit", newest_first=False)]
        assert told == ["accepted", "done"]
        token = kept.hub.link.published[0][1]["args"]["token"]
        for door in (kept.door, Door(kept.url, kept.fleet.device("cam-2"))):
            with pytest.raises(DoorRefusedError, match="404: it has ended"):
                door.connect(f"/live/{token}")
        with kept.hub.beside() as other:
            elsewhere = other.post(f"api/v1/devices/{DEVICE}/live", json={"stream": "door"})
        assert (elsewhere.status_code, "look at the one that the device's hub.url leads to" in elsewhere.json()["detail"]) == (409, True)


@pytest.mark.parametrize(("sent", "code"), [("a picture", 1003), (b"GIF89a", 1007)])
def test_what_is_no_picture_ends_a_live_view(kept: PictureSite, sent: str | bytes, code: int) -> None:
    view, _ = kept.hub.context.views.open(DEVICE, f"door-{code}")
    with kept.door.connect(f"/live/{view.token}") as socket:
        assert socket.recv(60) == "next"
        assert metric(kept, "live_views") == 1
        socket.send(sent)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(60)
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, view.ended) == (code, "the device sends what is no picture")
    assert metric(kept, "live_views") == 0
