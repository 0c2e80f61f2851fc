"""`almena bench studies` with both processes and a small model."""

from __future__ import annotations

import json
from pathlib import Path

from tests.fakes.agent_process import almena
from tests.fakes.study_stream import chest_card


def test_it_tells_latencies_by_step(tmp_path: Path) -> None:
    card = chest_card(tmp_path)
    done = almena(
        "bench", "studies", "--model", str(card), "--sides", "128", "--count", "3", "--burst", "0", "--backend", "onnxruntime", "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [(name, one["studies"], one["refused"]) for name, one in result.items()] == [("128x128", 3, 0)]
    for one in result.values():
        times = one["latency_seconds"]
        assert times.keys() == {"queue", "decode", "codec", "preprocess", "infer", "publish", "total", "commit"}
        assert 0 < times["infer"]["p50"] <= times["total"]["p50"] <= times["total"]["p99"]
        assert one["studies_per_second"] > 0
        assert one["vision_mb"] > 50


def test_wrong_sides_are_told() -> None:
    done = almena("bench", "studies", "--sides", "1500,a")
    assert (done.returncode, "--sides" in done.stderr) == (2, True)
