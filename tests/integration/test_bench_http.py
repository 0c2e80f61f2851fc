"""`almena bench http` on a small model, with both processes of the agent; and its client against a server that fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from agent.cli import app
from calibration.http_load import Post, load, percentile_ms
from engines.errors import EngineError
from tests.fakes.small_model import small_card
from tests.fakes.small_site import SmallSite


def test_every_request_is_answered_and_counted(tmp_path: Path) -> None:
    config = tmp_path / "almena.yaml"
    config.write_text(yaml.safe_dump({"state_dir": "state", "engines": {"backend": "onnxruntime", "precision": "fp32"}}))
    card = small_card(tmp_path)
    options = ["--requests", "24", "--images", "1,3", "--clients", "3", "--rounds", "2", "--config", str(config)]
    done = CliRunner().invoke(app, ["bench", "http", str(card), *options, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [(engine["batch"], engine["precision"]) for engine in found["engines"]] == [(1, "fp32"), (3, "fp32")]
    for row, images, sent in zip(found["rows"], (1, 3), (48, 18), strict=True):
        assert (row["images"], row["sent"], row["answered"]) == (images, sent, sent)
        assert row["images_per_second"] > 0
        assert 0 < row["p50_ms"] <= row["p99_ms"]


def test_numbers_of_pictures_are_checked(tmp_path: Path) -> None:
    for wrong in ("", "0", "1,x", "1,,2", "999"):
        done = CliRunner().invoke(app, ["bench", "http", str(small_card(tmp_path)), "--images", wrong])
        assert done.exit_code == 2, wrong


def test_answers_that_are_wrong_are_not_counted(tmp_path: Path) -> None:
    with SmallSite(tmp_path) as site:
        port = int(site.server.url.rstrip("/").rpartition(":")[2])
        missing = load(Post(port, "/v2/models/none/infer", {"Content-Type": "application/json"}, b"{}", 2, lambda _: True), 6, 2)
        assert (missing.sent, missing.answered, missing.wrong) == (6, 0, "404")
        with pytest.raises(EngineError, match="the first answer was 404"):
            percentile_ms([missing], 50)
    gone = load(Post(port, "/", {}, b"", 1, lambda _: True), 4, 1)
    assert (gone.answered, gone.wrong) == (0, "ConnectionRefusedError")
