"""`almena bench studies` with both processes."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from agent.commands import bench_studies
from agent.commands.studies_load import Way
from agent.settings import Settings
from tests.fakes.agent_process import almena
from tests.fakes.mapped_model import CHEST, save_model, write_card
from tests.fakes.study_stream import SIDE, chest_card
from training.ood import fitted, write


@pytest.mark.parametrize(("over", "syntax"), [("c-store", "explicit"), ("c-store", "rle"), ("stow", "jpeg-ls")])
def test_it_tells_latencies_by_step(tmp_path: Path, over: str, syntax: str) -> None:
    model = save_model(tmp_path / "chest.onnx", SIDE, (40.0, -40.0, 0.0), (-26.0, 14.0, 0.0), features=True)
    learned = np.random.default_rng(1).normal(9.0, 1e-3, (40, 64)).astype(np.float32)
    strange = write(fitted(learned, np.zeros(40, np.int64)), tmp_path / "chest.npz", "pictures that noise is unlike") | {"limit": 1.0}
    card = write_card(model, CHEST, SIDE, 0.5, strange, features="pooled", maps="maps")
    options = (
        "--sides",
        "128",
        "--count",
        "3",
        "--burst",
        "0",
        "--heat-map",
        "--backend",
        "onnxruntime",
        "--over",
        over,
        "--syntax",
        syntax,
        "--json",
    )
    done = almena("bench", "studies", "--model", str(card), *options)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [(name, one["studies"], one["refused"]) for name, one in result.items()] == [("128x128", 3, 0)]
    for one in result.values():
        times = one["latency_seconds"]
        assert times.keys() == {"queue", "decode", "codec", "preprocess", "infer", "explain", "publish", "total", "commit"}
        assert (times["codec"]["p50"] > 0) == (syntax != "explicit")
        assert 0 < times["infer"]["p50"] <= times["total"]["p50"] <= times["total"]["p99"]
        assert one["studies_per_second"] > 0
        assert one["vision_mb"] > 50


@pytest.mark.parametrize(("option", "wrong"), [("--sides", "1500,a"), ("--sides", "31"), ("--model", "nothing")])
def test_wrong_options_are_told_before_anything_starts(option: str, wrong: str) -> None:
    done = almena("bench", "studies", option, wrong)
    assert (done.returncode, wrong in done.stderr, "receiving" in done.stderr) == (2, True, False)


class Predicting(BaseHTTPRequestHandler):
    """Answers as the server of TensorFlow does, after a pause that makes it slower than anything else here."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        instances = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        time.sleep(1.0)
        body = json.dumps({"predictions": [[0.0, 0.0, 0.0] for _ in instances]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_it_takes_turns_with_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, home = str(chest_card(tmp_path)), Settings.model_validate({"state_dir": tmp_path / "home"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Predicting)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(bench_studies, "ROUNDS", 1)
    monkeypatch.setattr(bench_studies, "settings_of", lambda _config: home)
    monkeypatch.setattr(bench_studies, "tensorflow_server", lambda *_: nullcontext(server.server_address[1]))
    monkeypatch.setattr("calibration.zoo.ensure_zoo", lambda names, _folder: dict.fromkeys(names, card))
    try:
        found = bench_studies._compared({"model": card, "heat_map": False}, "onnxruntime", 64, 8, Way())
    finally:
        server.shutdown()
        server.server_close()
    assert (found["thesis"]["sent"], found["thesis"]["answered"]) == (8, 8)
    assert found["thesis"]["studies_per_second"] <= 4
    for name in ("model", bench_studies.THESIS):
        assert found[name]["refused"] == 0
        assert found[name]["ratio"] == pytest.approx(found[name]["studies_per_second"] / found["thesis"]["studies_per_second"])
    assert "ratio" in bench_studies._versus(found)
