"""`almena bench stream` on a short clip: two real processes, real engines, the bare runtimes beside them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.agent_process import ALMENA

Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def bench(tmp_path: Path, models_dir: Path, engines_dir: Path) -> Bench:
    engines_dir.mkdir(parents=True, exist_ok=True)
    (tmp_path / "almena" / "state").mkdir(parents=True)
    (tmp_path / "almena" / "state" / "engines").symlink_to(engines_dir)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [ALMENA, "bench", "stream", "--models", str(models_dir), "--repeats", "1", *arguments]
        environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "COLUMNS": "200"}
        return subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)

    return run


@pytest.mark.timeout(420)
def test_the_figures_of_a_clip(bench: Bench, short_clip: Path) -> None:
    done = bench("--source", str(short_clip), "--task", "faces", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(result)
    assert result["frames"] == 200
    assert result["tracks"] == 2
    assert 120 < result["detections"] < 250
    assert 0 < result["embeddings"] <= result["detections"]
    assert list(result["latency_seconds"]) == ["decode", "infer", "update", "publish", "total"]
    for times in result["latency_seconds"].values():
        assert 0 < times["p50"] <= times["p90"] <= times["p99"]
    assert result["latency_seconds"]["total"]["p50"] > result["latency_seconds"]["infer"]["p50"]
    assert all(20 < result["peak_memory_mb"][name] < 1000 for name in ("vision", "uplink"))
    assert result["ratio"] == pytest.approx(result["frames_per_second"] / result["bare_per_second"])
    assert result["bare_per_second"] > 0
    engines = {engine["task"]: engine for engine in result["engines"]}
    assert engines.keys() == {"face-detection", "face-embedding"}
    assert engines["face-detection"]["model"].startswith("centerface@")
    assert all(engine["precision"] in ("fp32", "bf16") and engine["backend"] for engine in engines.values())


def test_a_file_that_is_no_video(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a video\n" * 100)
    done = bench("--source", str(tmp_path / "notes.mp4"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "almena: the stream failed: STREAM_CODEC_UNSUPPORTED: " in done.stderr
    assert "notes.mp4 is not a video" in done.stderr


WRONG = {
    "nothing": ([], "give a video file, or --sample"),
    "no such file": (["--source", "no.mp4"], "'no.mp4' does not exist"),
    "a folder": (["--source", "."], "is a directory"),
    "no such task": (["--sample", "--task", "dragons"], "there is only: faces"),
    "no such backend": (
        ["--source", __file__, "--backend", "abacus"],
        "engines.backend: must be 'auto', 'openvino', 'onnxruntime'",
    ),
    "no such precision": (["--source", __file__, "--precision", "int1"], "engines.precision: must be"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_use_starts_nothing(bench: Bench, tmp_path: Path, wrong: str) -> None:
    arguments, message = WRONG[wrong]
    done = bench(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert not (tmp_path / "almena" / "sample.mp4").exists()
