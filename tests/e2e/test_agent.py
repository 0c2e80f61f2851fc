"""The whole agent as a user starts it: `almena demo`, `almena run`, `almena check`, `almena events`, with the real models."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import paho.mqtt.client as mqtt
import pytest
import yaml
from paho.mqtt.enums import CallbackAPIVersion
from playwright.sync_api import Browser, expect
from prometheus_client.parser import text_string_to_metric_families

from agent.mqtt import leave
from tests.fakes.agent_process import AgentProcess, almena, events
from tests.waiting import wait_until

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
TOPICS = {"status": "birth", "up/reported": "reported"}
PATIENCE_MS = 90_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, short_clip: Path, models_dir: Path, engines_dir: Path) -> Path:
    """What `almena demo` would fetch and build is there already, from earlier sessions, and a short clip instead of its own."""
    folder = tmp_path_factory.mktemp("demo")
    engines_dir.mkdir(parents=True, exist_ok=True)
    (folder / "sample.mp4").symlink_to(short_clip)
    (folder / "models").symlink_to(models_dir)
    (folder / "state").mkdir()
    (folder / "state" / "engines").symlink_to(engines_dir)
    return folder


@pytest.fixture(scope="module")
def kept(folder: Path) -> Iterator[AgentProcess]:
    agent = AgentProcess(folder, "demo", "--dir", str(folder), "--source", "clip")
    yield agent
    agent.stop()


@pytest.fixture
def demo(kept: AgentProcess) -> AgentProcess:
    """`almena demo`, running; started once for this file unless a test stops it."""
    if not kept.running:
        kept.start()
    return kept


@pytest.fixture
def config(demo: AgentProcess, folder: Path) -> Path:
    """The settings file that the demo wrote."""
    return folder / "demo.yaml"


def somebody_has_just_come(page: str) -> bool:
    """There is a track that began in the last two seconds; visits last longer."""
    found: list[dict[str, Any]] = httpx.get(f"{page}api/1/events?kind=face&limit=20", timeout=60).json()["events"]
    ended = {event["data"]["track"] for event in found if event["data"]["type"] == "end"}
    return any(event["data"]["track"] not in ended and event["data"]["started_at"] > time.time() - 2 for event in found)


def test_events_are_printed_so_that_people_can_read_them(demo: AgentProcess) -> None:
    line = r"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\d  sample: (it is )?Eileen Collins.*, distance 0\.\d\d of at most 0\.\d\d$"
    wait_until(lambda: re.search(line, demo.out, re.MULTILINE), 90, "a sentence about Eileen Collins")
    assert "Traceback" not in demo.err


def test_the_page_shows_who_is_there_and_an_unknown_visitor_gets_a_name(demo: AgentProcess, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.goto(demo.page)
    live = page.get_by_alt_text("Live picture of sample")
    expect(live).to_be_visible(timeout=PATIENCE_MS)
    wait_until(lambda: live.evaluate("image => image.naturalWidth") > 0, 20, "the live picture")
    expect(page.locator("#feed-state")).to_have_text("live")
    fresh = page.locator("#events li.fresh")
    expect(fresh.filter(has_text="Eileen Collins").first).to_be_visible(timeout=PATIENCE_MS)

    page.get_by_role("tab", name="System").click()
    expect(page.locator("#engines article").filter(has_text="centerface")).to_contain_text(re.compile("bf16|fp32"))
    expect(page.locator("#engines article").filter(has_text="dlib-resnet")).to_contain_text(re.compile("bf16|fp32"))
    expect(page.get_by_role("row", name=re.compile(r"^event \d+"))).to_be_visible()

    page.get_by_role("tab", name="People").click()
    expect(page.locator("#identities article").filter(has_text="Eileen Collins")).to_contain_text("public-domain portrait")
    page.locator("#clusters article").get_by_role("button", name="Name").first.click(timeout=PATIENCE_MS)
    page.get_by_role("dialog").get_by_label("Name").fill("Grace Hopper")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.locator("#identities article").filter(has_text="Grace Hopper")).to_be_visible()
    page.get_by_role("tab", name="Live").click()
    expect(fresh.filter(has_text="Grace Hopper").first).to_be_visible(timeout=PATIENCE_MS)
    page.close()


def test_a_consumer_at_the_broker_gets_valid_payloads_and_the_retained_birth(demo: AgentProcess, config: Path) -> None:
    heard: list[mqtt.MQTTMessage] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
    client.on_connect = lambda client, *_: client.subscribe("almena/1/demo/#", qos=1)
    client.on_message = lambda *arguments: heard.append(arguments[2])
    client.connect("127.0.0.1", yaml.safe_load(config.read_text())["mqtt"]["port"])
    client.loop_start()
    try:
        wait_until(lambda: any(message.topic.endswith("/sample/face") for message in heard), 90, "a face event")
    finally:
        leave(client)
    (birth,) = (message for message in heard if message.topic == "almena/1/demo/status")
    assert birth.retain
    assert json.loads(birth.payload)["state"] == "online"
    for message in heard:
        payload = json.loads(message.payload)
        name = TOPICS.get(message.topic.removeprefix("almena/1/demo/")) or payload["kind"]
        schema = json.loads((SCHEMAS / f"{name}.json").read_text())
        jsonschema.Draft202012Validator(schema).validate(payload)


def test_what_monitoring_asks(demo: AgentProcess) -> None:
    assert httpx.get(f"{demo.page}healthz", timeout=60).json()["status"] == "ok"
    assert httpx.get(f"{demo.page}readyz", timeout=60).json() == {"status": "ready"}
    families = text_string_to_metric_families(httpx.get(f"{demo.page}metrics", timeout=60).text)
    samples = {(sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples}
    assert samples[("almena_vision_up",)] == samples[("almena_broker_connected",)] == 1
    assert samples[("almena_stream_frames_total", "processed", "sample")] > 0
    assert samples[("almena_stage_seconds", "0.5", "infer", "sample")] > 0
    assert samples[("almena_outbox_produced_total", "event")] > 0
    assert samples[("almena_outbox_lost_total", "event")] == 0


def test_ctrl_c_ends_it_cleanly_and_a_second_start_prepares_nothing(demo: AgentProcess, config: Path, folder: Path) -> None:
    wait_until(lambda: somebody_has_just_come(demo.page), 90, "somebody in the picture")
    assert demo.stop() == 0
    assert demo.out.rstrip().endswith("almena: stopped")
    reasons = [event["data"]["reason"] for event in events(config, "--kind", "face") if event["data"]["type"] == "end"]
    assert "stopped" in reasons
    prepared = almena("demo", "--dir", str(folder), "--source", "clip", "--prepare-only")
    assert prepared.returncode == 0
    print(f"the second start is ready after {demo.start():.1f} s")
    assert not re.search("fetch|buil[dt]|compos|convert", prepared.stdout + prepared.stderr + demo.out + demo.err, re.IGNORECASE)


def test_a_killed_vision_process_is_started_again_and_its_tracks_end(kept: AgentProcess, folder: Path) -> None:
    kept.stop()
    config = folder / "demo.yaml"
    if not config.exists():
        almena("demo", "--dir", str(folder), "--source", "clip", "--prepare-only")
    (folder / "run").mkdir()
    agent = AgentProcess(folder / "run", "run", "--config", str(config), "--quiet")
    print(f"ready after {agent.start():.1f} s")
    try:
        before = {event["id"] for event in events(config)}
        wait_until(lambda: somebody_has_just_come(agent.page), 90, "somebody in the picture")
        killed = agent.processes()["agent.vision"]
        killed.kill()
        wait_until(lambda: "vision was killed by signal 9; it is started again in" in agent.err, 20, "the supervisor to say so")
        wait_until(lambda: agent.processes().get("agent.vision", killed) != killed, 30, "a new vision process")
        wait_until(lambda: httpx.get(f"{agent.page}readyz", timeout=60).status_code == 200, 60, "the new vision process to answer")

        def reasons() -> list[str]:
            new = [event["data"] for event in events(config, "--kind", "face") if event["id"] not in before]
            return [data["reason"] for data in new if data["type"] == "end"]

        wait_until(lambda: "interrupted" in reasons(), 30, "what it left open to be ended")
    finally:
        code = agent.stop()
    assert code == 0


WRONG = {
    "unknown key": ("device:\n  name: door\n  colour: red\n", 3, "device.colour"),
    "wrong type": ("device:\n  name: door\nweb:\n  port: many\n", 4, "web.port"),
    "missing file": ("mqtt:\n  host: broker.example\n  tls:\n    ca_file: nowhere.pem\n", 4, "mqtt.tls.ca_file"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_settings_start_nothing(tmp_path: Path, wrong: str) -> None:
    text, line, place = WRONG[wrong]
    config = tmp_path / "almena.yaml"
    config.write_text(text)
    ended = almena("run", "--config", str(config))
    assert ended.returncode == 2
    assert f"{config}:{line}: {place}" in ended.stderr
    assert os.listdir(tmp_path) == ["almena.yaml"]
    checked = almena("check", "--json", "--config", str(config))
    assert checked.returncode == 2
    assert json.loads(checked.stdout)["valid"] is False
    assert f"{config}:{line}: {place}" in json.loads(checked.stdout)["problems"][0]


def test_right_settings_are_checked_without_starting(tmp_path: Path) -> None:
    config = tmp_path / "almena.yaml"
    stream = {"name": "hall", "source": {"type": "rtsp", "url": "rtsp://camera.example/1"}, "tasks": [{"type": "faces"}]}
    config.write_text(yaml.safe_dump({"device": {"name": "door"}, "streams": [stream]}))
    checked = almena("check", "--json", "--config", str(config))
    assert checked.returncode == 0, checked.stdout
    assert json.loads(checked.stdout) == {"valid": True, "device": "door", "streams": ["hall"]}
    (tmp_path / "ca.pem").write_text("no certificate")
    stream["tasks"] = [{"type": "faces", "detector": "nope", "embedder": "centerface"}]
    config.write_text(
        yaml.safe_dump({"device": {"name": "door"}, "streams": [stream], "mqtt": {"host": "a", "tls": {"ca_file": "ca.pem"}}})
    )
    checked = almena("check", "--json", "--config", str(config))
    assert checked.returncode == 2
    detector, embedder, tls = json.loads(checked.stdout)["problems"]
    assert "hall.detector" in detector
    assert "hall.embedder" in embedder
    assert "mqtt.tls" in tls
    missing = almena("run", "--config", str(tmp_path / "no.yaml"))
    assert missing.returncode == 2
    assert "no.yaml" in missing.stderr
