"""REST, metrics and health of the page, against a real outbox and a real control socket."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.envelopes import COLUMNS
from agent.http.guard import MAX_JSON_BYTES
from agent.serving import MAX_IMAGE_BYTES
from tests.fakes.face_events import face
from tests.fakes.small_site import SmallSite
from tests.waiting import wait_until

PICTURE = b"\xff\xd8" + b"x" * 2000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallSite]:
    with SmallSite(tmp_path_factory.mktemp("site"), streams=("door", "yard")) as site:
        yield site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SmallSite]:
    with SmallSite(tmp_path) as site:
        yield site


def problem(answer: httpx.Response, status: int) -> dict[str, object]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = answer.json()
    return document


def test_health_streams_engines_outbox(shared: SmallSite) -> None:
    health = shared.client.get("/api/1/health").json()
    assert (health["device"], health["vision"]["state"], health["broker"]["state"], health["login"]) == (
        "entrance",
        "running",
        "connected",
        False,
    )
    assert [stream["stream"] for stream in shared.client.get("/api/1/streams").json()] == ["door", "yard"]
    assert shared.client.get("/api/1/streams/yard/annotations").json()[0]["label"] == "Zoë Ångström"
    assert shared.client.get("/api/1/engines").json()[0]["precision"] == "bf16"
    wait_until(lambda: shared.client.get("/api/1/performance").json()["door"]["frames_total"] > 0, 5, "a frame")
    assert shared.client.get("/api/1/outbox").json()["lanes"]["event"]["lost"] == 0
    assert shared.client.get("/api/1/telemetry").json()["system"]["cpu_count"] == 4
    assert shared.client.get("/healthz").json()["status"] == "ok"
    assert shared.client.get("/readyz").json() == {"status": "ready"}
    assert shared.client.post("/api/1/config/reload").status_code == 201
    assert shared.client.post("/api/1/config/reload").status_code == 200


def test_identities_by_form_and_by_raw_body(shared: SmallSite) -> None:
    person = shared.client.post("/api/1/identities", json={"name": "Ada Lovelace", "consent": "form"}).json()
    path = f"/api/1/identities/{person['id']}"
    assert shared.client.post(f"{path}/images", files={"file": ("ada.jpg", PICTURE, "image/jpeg")}).status_code == 201
    assert shared.client.post(f"{path}/images", content=PICTURE, headers={"Content-Type": "image/jpeg"}).status_code == 201
    assert shared.client.get(f"{path}/images/1").content == PICTURE
    refused = problem(shared.client.post(f"{path}/images", files={"file": ("a.jpg", b"tiny", "image/jpeg")}), 422)
    assert refused["reasons"] == ["no face was found"]
    problem(shared.client.post(f"{path}/images", files={"other": ("a.jpg", PICTURE, "image/jpeg")}), 400)
    problem(shared.client.post(f"{path}/images", json={}), 415)
    found = shared.client.post("/api/1/recognize", files={"file": ("ada.jpg", PICTURE, "image/jpeg")}).json()["result"]
    assert found[0]["name"] == "Ada Lovelace"
    assert shared.client.patch(path, json={"name": "Ada"}).json()["name"] == "Ada"
    assert shared.client.delete(path).status_code == 204
    problem(shared.client.delete(path), 404)


def test_clusters(shared: SmallSite) -> None:
    for name in ("u-1", "u-2"):
        shared.vision.faces.unknown[name] = {"id": name, "sightings": 1, "created_at": 0.0, "seen_at": 0.0}
    assert [cluster["id"] for cluster in shared.client.get("/api/1/clusters").json()] == ["u-1", "u-2"]
    assert shared.client.post("/api/1/clusters/u-1/name", json={"name": "Grace"}).status_code == 201
    assert shared.client.delete("/api/1/clusters/u-2").status_code == 204
    assert shared.client.get("/api/1/clusters").json() == []


def test_an_invalid_request_says_which_field(shared: SmallSite) -> None:
    document = problem(shared.client.post("/api/1/identities", json={"name": "", "colour": "red"}), 422)
    assert {error["field"] for error in document["errors"]} == {"name", "colour"}  # type: ignore[attr-defined]
    problem(shared.client.get("/api/1/events?limit=0"), 422)
    for cursor in ("rubbish", "1.0", "1.0|x", "|1", f"1.0|{1 << 63}"):
        problem(shared.client.get("/api/1/events", params={"cursor": cursor}), 422)
    problem(shared.client.get("/api/1/events?until=inf"), 422)
    for never in ("Infinity", "NaN"):
        body = f'{{"name": "Ada", "expires_at": {never}}}'
        problem(shared.client.post("/api/1/identities", content=body, headers={"Content-Type": "application/json"}), 422)
    problem(shared.client.get("/api/1/nothing"), 404)


def test_bodies_have_limits(shared: SmallSite) -> None:
    problem(
        shared.client.post("/api/1/identities", content=b"{" + b" " * MAX_JSON_BYTES, headers={"Content-Type": "application/json"}), 413
    )
    chunks = (b" " * 65536 for _ in range(MAX_JSON_BYTES // 65536 + 1))
    problem(shared.client.post("/api/1/identities", content=chunks, headers={"Content-Type": "application/json"}), 413)
    problem(shared.client.post("/api/1/recognize", content=b"x" * (MAX_IMAGE_BYTES + 1), headers={"Content-Type": "image/jpeg"}), 413)
    problem(shared.client.post("/api/1/identities", data={"name": "Ada"}), 415)


def test_events_page_by_page_none_lost_and_none_twice(site: SmallSite) -> None:
    now = time.time()
    moments = [now - 100 + number // 3 for number in range(25)]
    for number, moment in enumerate(moments):
        site.outbox.append("event", [face(name=f"person {number}", stream=("door", "yard")[number % 2], at=moment)])
    seen, cursor = [], None
    while True:
        page = site.client.get("/api/1/events", params={"limit": 7, **({"cursor": cursor} if cursor else {})}).json()
        seen += [event["data"]["name"] for event in page["events"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(f"person {number}" for number in range(25))
    assert seen[0] == "person 24"
    yard = site.client.get("/api/1/events", params={"stream": "yard", "kind": "face", "limit": 100}).json()["events"]
    assert len(yard) == 12
    middle = site.client.get("/api/1/events", params={"since": now - 98, "until": now - 96}).json()["events"]
    assert {event["data"]["name"] for event in middle} == {f"person {number}" for number in range(6, 12)}
    assert site.client.get("/api/1/events", params={"kind": "nothing"}).json() == {"events": [], "next": None}


def test_csv_holds_every_event_and_no_formula(site: SmallSite) -> None:
    site.outbox.append("event", [face(name='=HYPERLINK("http://x")'), face(name='a "quoted", name')])
    site.outbox.append("event", [face(name=f"n{number}") for number in range(600)])
    answer = site.client.get("/api/1/events.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "events.csv" in answer.headers["content-disposition"]
    table = csv.DictReader(io.StringIO(answer.text))
    rows = list(table)
    assert table.fieldnames == list(COLUMNS)
    assert len(rows) == 602
    names = {row["name"] for row in rows}
    assert {'\'=HYPERLINK("http://x")', 'a "quoted", name', "n599"} <= names
    assert json.loads(rows[0]["data"])["type"] == "new"


def test_many_events_of_one_moment_hide_none_of_the_older_ones(site: SmallSite) -> None:
    moment = time.time() - 50
    site.outbox.append("event", [face(name=f"older {number}", at=moment - 1 - number) for number in range(1000)])
    site.outbox.append("event", [face(name=f"same {number}", at=moment) for number in range(2000)])
    rows = list(csv.DictReader(io.StringIO(site.client.get("/api/1/events.csv").text)))
    assert [row["name"] for row in rows] == [f"same {number}" for number in reversed(range(2000))] + [f"older {n}" for n in range(1000)]


def test_live_events_arrive_within_a_second_and_resume_without_a_gap(site: SmallSite) -> None:
    site.outbox.append("event", [face(name="before")])

    def listen(last: str | None, wanted: int, act: object = None) -> list[tuple[str, str, float]]:
        headers = {"Last-Event-ID": last} if last else {}
        found: list[tuple[str, str, float]] = []
        with site.client.stream("GET", "/api/1/events/live", headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            number = ""
            for line in answer.iter_lines():
                if line == "event: ready" and callable(act):
                    act()
                if line.startswith("id: "):
                    number = line[4:]
                if line.startswith('data: {"v"'):
                    found.append((number, json.loads(line[6:])["data"]["name"], time.monotonic()))
                    if len(found) == wanted:
                        return found
        raise AssertionError("the stream ended")

    began: list[float] = []

    def append() -> None:
        began.append(time.monotonic())
        site.outbox.append("event", [face(name="one"), face(name="two")])

    def within_a_second() -> bool:
        first[:] = listen(None, 2, append)
        assert [name for _, name, _ in first] == ["one", "two"]
        return first[-1][2] - began[-1] < 1.0

    first: list[tuple[str, str, float]] = []
    assert any(within_a_second() for _ in range(5)), "a loaded machine may be late, but not five times in a row"
    site.outbox.append("event", [face(name="three")])
    assert [name for _, name, _ in listen(first[0][0], 2)] == ["two", "three"]


def test_many_live_events_at_once_all_arrive_in_order(site: SmallSite) -> None:
    site.outbox.append("event", [face(name=f"early {number}") for number in range(700)])
    first = site.outbox.history(after_seq=0, limit=1)[0]["id"]
    names = []
    with site.client.stream("GET", "/api/1/events/live", headers={"Last-Event-ID": first}) as answer:
        for line in answer.iter_lines():
            if line.startswith('data: {"v"'):
                names.append(json.loads(line[6:])["data"]["name"])
            if len(names) == 699 and names[-1] == "early 699":
                site.outbox.append("event", [face(name=f"late {number}") for number in range(1500)])
            if len(names) == 699 + 1500:
                break
    assert names == [f"early {number}" for number in range(1, 700)] + [f"late {number}" for number in range(1500)]


def test_an_id_of_an_earlier_outbox_brings_everything_and_rubbish_nothing(site: SmallSite) -> None:
    site.outbox.append("event", [face(name="one")])
    with site.client.stream("GET", "/api/1/events/live", headers={"Last-Event-ID": "entrance/0123456789abcdef/99"}) as answer:
        assert any('"one"' in line for line in answer.iter_lines())
    for rubbish in ("rubbish", "x/y/-9999999999999999999999999999", f"x/y/{1 << 63}"):
        problem(site.client.get("/api/1/events/live", headers={"Last-Event-ID": rubbish}), 422)


def test_metrics_are_what_prometheus_reads(shared: SmallSite) -> None:
    answer = shared.client.get("/metrics")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples[("almena_vision_up",)] == 1
    assert samples[("almena_stream_state", ("state", "running"), ("stream", "door"))] == 1
    assert samples[("almena_stream_frames_total", ("result", "processed"), ("stream", "door"))] > 0
    assert samples[("almena_stage_seconds", ("quantile", "0.5"), ("stage", "infer"), ("stream", "door"))] == 0.012
    assert samples[("almena_task_frames_total", ("stream", "yard"))] > 0
    assert samples[("almena_outbox_lost_total", ("lane", "event"))] == 0
    assert samples[("almena_host_memory_available_bytes",)] == 5 * 2**30
    assert samples[("almena_jetson_gpu_ratio",)] == 0.4
    assert samples[("almena_jetson_rail_watts", ("rail", "VDD_IN"))] == 6.0
    assert samples[("almena_jetson_temperature_celsius", ("zone", "tj-thermal"))] == 48.5
    assert samples[("almena_process_resident_memory_bytes", ("process", "uplink"))] == 90 * 2**20


def test_without_vision_the_page_stays_and_says_so(site: SmallSite) -> None:
    site.outbox.append("event", [face(name="Ada")])
    site.stop_vision()
    assert site.client.get("/api/1/health").json()["vision"]["state"] == "down"
    assert "Vision is not running" in str(problem(site.client.get("/api/1/streams"), 503)["title"])
    problem(site.client.get("/api/1/streams/door/live.mjpg"), 503)
    problem(site.client.get("/readyz"), 503)
    assert site.client.get("/healthz").status_code == 200
    assert site.client.get("/").status_code == 200
    assert len(site.client.get("/api/1/events").json()["events"]) == 1
    assert "almena_vision_up 0.0" in site.client.get("/metrics").text
    site.start_vision()
    assert site.client.get("/readyz").status_code == 200


def test_a_live_picture_ends_when_vision_goes(site: SmallSite) -> None:
    with site.client.stream("GET", "/api/1/streams/door/live.mjpg") as answer:
        parts = answer.iter_raw()
        assert b"image/jpeg" in next(parts)
        site.stop_vision()
        began = time.monotonic()
        for _ in parts:
            assert time.monotonic() - began < 30
    wait_until(lambda: site.client.get("/healthz").status_code == 200, 5, "the page")


def test_everything_is_described_and_nothing_comes_from_elsewhere(shared: SmallSite) -> None:
    document = shared.client.get("/api/1/openapi.json").json()
    assert {"/api/1/identities/{identity}/images", "/api/1/recognize", "/api/1/events", "/metrics", "/healthz"} <= set(document["paths"])
    assert all(operation.get("description") for methods in document["paths"].values() for operation in methods.values())
    root = Path(__file__).parents[2]
    for file in chain.from_iterable(
        (root / folder).iterdir() for folder in ("agent/http/static", "agent/uplink/web/static", "fleet/console/static")
    ):
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, file.name
        assert "innerHTML" not in text, file.name
        assert len(text.splitlines()) < 400, file.name


def test_the_page_stops_soon_while_somebody_looks(tmp_path: Path) -> None:
    with SmallSite(tmp_path) as site:
        with site.client.stream("GET", "/api/1/events/live") as events, site.client.stream("GET", "/api/1/streams/door/live.mjpg") as live:
            assert b"ready" in next(events.iter_raw())
            assert next(live.iter_raw())
            began = time.monotonic()
            site.server.stop()
            assert time.monotonic() - began < 20
        with pytest.raises(httpx.ConnectError):
            site.client.get("/healthz")
