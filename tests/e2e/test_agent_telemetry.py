"""What a running agent tells a broker about its engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from agent.mqtt import leave
from tests.fakes.agent_process import AgentProcess
from tests.fakes.mosquitto import Mosquitto
from tests.waiting import wait_until

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schemas" / "telemetry.json").read_text())


def test_latency_percentiles_of_engines_arrive(tmp_path: Path, short_clip: Path, models_dir: Path, engines_dir: Path) -> None:
    engines_dir.mkdir(parents=True, exist_ok=True)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "engines").symlink_to(engines_dir)
    heard: list[dict[str, Any]] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda client, *_: client.subscribe("almena/1/cam/up/telemetry", qos=1)
    client.on_message = lambda *arguments: heard.append(json.loads(arguments[2].payload))
    config = tmp_path / "almena.yaml"
    agent = AgentProcess(tmp_path, "run", "--quiet", "--config", str(config))
    with Mosquitto(tmp_path / "broker") as broker:
        clip = {"type": "video", "path": str(short_clip), "loop": True}
        settings = {
            "device": {"name": "cam"},
            "state_dir": "state",
            "engines": {"models_dir": str(models_dir)},
            "streams": [{"name": "hall", "source": clip, "tasks": [{"type": "faces"}]}],
            "mqtt": {"port": broker.port, "delivery": "broker"},
            "web": {"port": 0},
            "telemetry": {"period_s": 1},
        }
        config.write_text(yaml.safe_dump(settings))
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        try:
            agent.start()
            sample = wait_until(lambda: with_both_engines(heard), 60, "a sample after detector and embedder have run")
        finally:
            code = agent.stop()
            leave(client)
    assert code == 0
    for envelope in heard:
        jsonschema.Draft202012Validator(SCHEMA).validate(envelope)
    figures = sample["vision"]["metrics"]["hall"]
    for engine in ("detect", "embed"):
        times = [figures[f"{engine}_p{percent}_seconds"] for percent in (50, 95, 99)]
        assert 0 < times[0] <= times[1] <= times[2] < 10
    assert figures["detect_p50_seconds"] <= figures["infer_p99_seconds"]
    (stream,) = sample["vision"]["streams"]
    assert (stream["stream"], stream["state"]) == ("hall", "running")
    assert stream["processed"] > 0
    assert sample["outbox"]["event"]["produced"] >= 1


def with_both_engines(heard: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The newest sample with figures of detector and embedder that was taken while the broker was there."""
    samples = [sample for envelope in heard for sample in envelope["data"]["samples"]]
    seen = [sample for sample in samples if "embed_p99_seconds" in sample["vision"].get("metrics", {}).get("hall", {})]
    return next((sample for sample in reversed(seen) if sample["mqtt"]["state"] == "connected"), None)
