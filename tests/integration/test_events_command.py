"""`almena events` over a real outbox."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.commands.events import app
from agent.datatypes import Event
from agent.outbox import Outbox
from agent.settings import load
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
FACE = {
    "type": "new", "track": "t1", "box": [1, 2, 3, 4], "score": 0.9, "started_at": 100.0, "ended_at": None, "identity": "i1", "name": "Ada",
    "decision": "known", "distance": 0.3, "threshold": 0.5, "second_best": None, "cluster": None, "frames": 3, "reason": None,
}  # fmt: skip


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    (tmp_path / "almena.yaml").write_text("device: {name: cam}\nstate_dir: state\n")
    settings = load(tmp_path / "almena.yaml")
    with Outbox.open(settings.outbox_dir, "cam", settings.outbox) as box:
        yield box


def _event(stream: str, ago_s: float, kind: str = "face", **data: object) -> Event:
    return Event(stream, kind, {**FACE, **data} if kind == "face" else data, time.time() - ago_s, time.monotonic_ns(), "m@1")


def _command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "agent.cli", "events", "--config", str(folder / "almena.yaml"), *arguments]


def _run(folder: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["--config", str(folder / "almena.yaml"), *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def _fails(folder: Path, code: int, *arguments: str) -> str:
    result = subprocess.run(_command(folder, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert result.returncode == code, result.stderr
    return result.stderr


def _streams(folder: Path, *arguments: str) -> list[str]:
    return [json.loads(line)["stream"] for line in _run(folder, "--json", *arguments).splitlines()]


def test_filters_and_order(tmp_path: Path, outbox: Outbox) -> None:
    outbox.append("event", [_event("a", 7200 * 2), _event("b", 3000), _event("c", 100, "stream", state="running", code="", detail="")])
    outbox.append("audit", [_event("", 5, "audit", action="erase", actor="admin", outcome="done", detail={})])
    assert _streams(tmp_path) == ["a", "b", "c"]
    assert _streams(tmp_path, "--since", "2h") == ["b", "c"]
    assert _streams(tmp_path, "--since", "2h", "--until", "30m") == ["b"]
    assert _streams(tmp_path, "--until", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))) == ["a"]
    assert _streams(tmp_path, "--stream", "b") == ["b"]
    assert _streams(tmp_path, "--kind", "stream") == ["c"]
    assert _streams(tmp_path, "--limit", "2") == ["b", "c"]
    assert "action=erase" in _run(tmp_path, "--kind", "audit")


def test_losses_of_every_lane_with_their_reasons(tmp_path: Path, outbox: Outbox) -> None:
    for lane in ("event", "telemetry"):
        outbox.append(lane, [_event("door", 1, "weather", sky=float("nan"))])
    said = _run(tmp_path, "--kind", "loss")
    for lane in ("event", "telemetry"):
        assert re.search(rf"device: 1 of lane {lane} lost: unfit: an event of kind 'weather' cannot be written", said)
    assert len(_run(tmp_path, "--kind", "loss", "-n", "1").splitlines()) == 1
    assert len(outbox.pending("loss", 10)) == 2


def test_a_history_without_what_was_asked_for(tmp_path: Path, outbox: Outbox) -> None:
    told = CliRunner().invoke(app, ["--config", str(tmp_path / "almena.yaml"), "--kind", "fase", "--csv"])
    assert (told.exit_code, len(told.stdout.splitlines()), "nothing of that" in told.stderr) == (0, 1, True)


def test_sentences(tmp_path: Path, outbox: Outbox) -> None:
    outbox.append("event", [_event("door", 1)])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  door: Ada is there, distance 0.30 of at most 0.50\n", _run(tmp_path))


def test_a_table_that_no_spreadsheet_runs(tmp_path: Path, outbox: Outbox) -> None:
    evil = '=HYPERLINK("http://x")'
    outbox.append("event", [_event("door", 9, name=evil), _event("door", 8, name='Ada, the "first"\n', distance=-0.5)])
    first, second = csv.DictReader(io.StringIO(_run(tmp_path, "--csv"), newline=""))
    assert (first["name"], first["distance"], first["kind"]) == (
        f"'{evil}",
        "0.3",
        "face",
    )
    assert (second["name"], second["distance"]) == ('Ada, the "first"\n', "-0.5")
    assert json.loads(first["data"])["name"] == evil


def test_follows_what_comes(tmp_path: Path, outbox: Outbox) -> None:
    outbox.append("event", [_event("old", 1)])
    lines: list[str] = []
    with subprocess.Popen(
        _command(tmp_path, "--follow", "--json"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        try:
            wait_until(lambda: len(lines) == 1, 20, "the old event")
            for number in range(3):
                outbox.append("event", [_event(f"new-{number}", 50 - number)])
            wait_until(lambda: len(lines) == 4, 20, "the new events")
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(60)
            reader.join()
        assert code == 0
    assert [json.loads(line)["stream"] for line in lines] == ["old", "new-0", "new-1", "new-2"]


def test_wrong_use_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "almena.yaml").write_text("state_dir: nowhere\n")
    assert "almena run" in _fails(tmp_path, 1)
    assert "neither like 30m" in _fails(tmp_path, 2, "--since", "yesterday")
    assert "--csv" in _fails(tmp_path, 2, "--json", "--csv")
    assert not (tmp_path / "nowhere").exists()
