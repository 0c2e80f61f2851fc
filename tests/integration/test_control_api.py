"""The control API over its real Unix socket."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agent.errors import AlmenaError
from agent.serving import MAX_IMAGE_BYTES
from agent.vision.control import ControlServer
from tests.fakes.small_vision import SmallVision
from tests.waiting import wait_until


@pytest.fixture
def vision(tmp_path: Path) -> Iterator[SmallVision]:
    with SmallVision(tmp_path) as vision:
        control = ControlServer(vision)
        control.start()
        yield vision
        control.stop()
        assert not vision.settings.control_socket.exists()


@pytest.fixture
def client(vision: SmallVision) -> Iterator[httpx.Client]:
    transport = httpx.HTTPTransport(uds=str(vision.settings.control_socket))
    with httpx.Client(transport=transport, base_url="http://vision", timeout=60) as client:
        yield client


def problem(answer: httpx.Response, status: int) -> dict[str, object]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = answer.json()
    assert document["status"] == status
    assert document["title"]
    return document


def test_the_socket_is_for_owner_and_group_only(vision: SmallVision) -> None:
    assert stat.S_IMODE(vision.settings.control_socket.stat().st_mode) == 0o660


def test_a_stale_socket_is_replaced_and_a_live_one_respected(vision: SmallVision, tmp_path: Path) -> None:
    with pytest.raises(AlmenaError, match="another vision process"):
        ControlServer(vision)
    other = SmallVision(tmp_path / "other")
    stale = ControlServer(other)
    stale._server._listener.close()
    again = ControlServer(other)
    again.start()
    transport = httpx.HTTPTransport(uds=str(other.settings.control_socket))
    with httpx.Client(transport=transport, base_url="http://vision", timeout=60) as client:
        assert client.get("/health").json()["status"] == "ok"
    again.stop()


def test_a_path_that_is_too_long_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AlmenaError, match="shorter state_dir"):
        ControlServer(SmallVision(tmp_path / ("x" * 120)))


def test_streams_annotations_engines_metrics(client: httpx.Client) -> None:
    (stream,) = client.get("/streams").json()
    assert (stream["stream"], stream["state"], stream["quality"]) == ("door", "running", "excellent")
    (seen,) = client.get("/streams/door/annotations").json()
    assert (seen["label"], seen["known"]) == ("Zoë Ångström", True)
    assert {engine["model"] for engine in client.get("/engines").json()} == {"centerface@09189deaaf86", "dlib-resnet@55533b28a958"}
    assert client.get("/metrics").json()["door"]["infer_p50_seconds"] == 0.012
    for path in ("/streams/nowhere/annotations", "/streams/nowhere/snapshot.jpg", "/streams/nowhere/live.mjpg", "/nothing"):
        problem(client.get(path), 404)
    problem(client.delete("/streams"), 405)


def test_live_pictures_flow_and_stop_with_the_viewer(vision: SmallVision, client: httpx.Client) -> None:
    preview = vision.preview("door")
    assert preview.encoded == 0
    with client.stream("GET", "/streams/door/live.mjpg") as answer:
        assert answer.headers["content-type"].startswith("multipart/x-mixed-replace")
        received = b""
        for part in answer.iter_raw():
            received += part
            if received.count(b"\xff\xd9\r\n--almena-frame") >= 3:
                break
        assert b"Content-Type: image/jpeg" in received

    def at_rest() -> bool:
        before = preview.encoded
        frames = vision._index
        wait_until(lambda: vision._index > frames + 10, 10, "more frames")
        return preview.encoded == before

    wait_until(at_rest, 10, "encoding to stop after the viewer left")


def test_a_snapshot_is_a_jpeg_and_a_conflict_before_the_first_frame(client: httpx.Client, tmp_path: Path) -> None:
    answer = wait_until(lambda: (got := client.get("/streams/door/snapshot.jpg")).status_code == 200 and got, 5, "a snapshot")
    assert answer.content[:2] == b"\xff\xd8"
    waiting = SmallVision(tmp_path / "w")
    control = ControlServer(waiting)
    control.start()
    transport = httpx.HTTPTransport(uds=str(waiting.settings.control_socket))
    with httpx.Client(transport=transport, base_url="http://vision", timeout=60) as other:
        problem(other.get("/streams/door/snapshot.jpg"), 409)
    control.stop()


def test_a_fault_inside_is_not_taken_for_an_unknown_name(
    vision: SmallVision, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem(client.delete("/identities/p-0"), 404)
    inside: dict[str, str] = {}
    monkeypatch.setattr(vision.faces, "erase", inside.__getitem__)
    problem(client.delete("/identities/p-0"), 500)


def test_an_expiry_that_never_comes_is_refused(vision: SmallVision, client: httpx.Client) -> None:
    identity = vision.faces.create("Ada", "form", None)["id"]
    for never in ("Infinity", "NaN"):
        problem(client.patch(f"/identities/{identity}", content=f'{{"expires_at": {never}}}'), 422)
    assert client.get("/identities").json()[0]["expires_at"] is None


def test_identities_from_creation_to_erasure(client: httpx.Client) -> None:
    created = client.post("/identities", json={"name": " Ada Lovelace ", "consent": "form", "expires_at": None})
    assert created.status_code == 201
    identity = created.json()["id"]
    assert created.json()["name"] == "Ada Lovelace"
    assert client.post(f"/identities/{identity}/images", content=b"\xff\xd8" + b"x" * 2000).status_code == 201
    refused = problem(client.post(f"/identities/{identity}/images", content=b"small"), 422)
    assert refused["reasons"] == ["no face was found"]
    assert client.get(f"/identities/{identity}/images/0").content[:2] == b"\xff\xd8"
    problem(client.get(f"/identities/{identity}/images/1"), 404)
    assert client.patch(f"/identities/{identity}", json={"name": "Ada"}).json()["name"] == "Ada"
    assert [record["pictures"] for record in client.get("/identities").json()] == [1]
    taken = problem(client.post("/identities", json={"name": "Ada"}), 422)
    assert "taken" in str(taken["detail"])
    assert client.delete(f"/identities/{identity}").status_code == 204
    problem(client.delete(f"/identities/{identity}"), 404)
    assert client.get("/identities").json() == []


def test_bad_bodies(client: httpx.Client) -> None:
    problem(client.post("/identities", content=b"{"), 400)
    problem(client.post("/identities", json=[1]), 400)
    problem(client.post("/identities", json={"name": "  "}), 422)
    problem(client.post("/recognize"), 400)
    problem(client.post("/recognize", content=b"x" * (MAX_IMAGE_BYTES + 1)), 413)


def test_clusters_and_recognition(vision: SmallVision, client: httpx.Client) -> None:
    for name in ("u-1", "u-2"):
        vision.faces.unknown[name] = {"id": name, "sightings": 1, "created_at": 0.0, "seen_at": 0.0}
    assert client.post("/clusters/u-1/name", json={"name": "Grace"}).json()["name"] == "Grace"
    assert client.delete("/clusters/u-2").status_code == 204
    assert client.get("/clusters").json() == []
    problem(client.delete("/clusters/u-2"), 404)
    (face,) = client.post("/recognize", content=b"picture").json()["result"]
    assert face["name"] == "Grace"
    assert face["box"]["x_min"] == 10.0


def test_reload_says_whether_anything_changed(client: httpx.Client) -> None:
    first = client.post("/reload")
    assert first.status_code == 201
    assert first.json() == {"reloaded": True, "restart_needed": ["mqtt"]}
    assert client.post("/reload").status_code == 200
