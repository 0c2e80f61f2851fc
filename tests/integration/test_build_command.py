"""`almena build`, as a user calls it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from agent.cli import app
from tests.fakes import small_disk as disk
from tests.fakes.cards import write_card
from tests.waiting import wait_until


def classifier(path: Path, operator: str = "", megabytes: int = 0) -> Path:
    """An ONNX classifier (N, H, W, 3) to (N, 3): the mean of each channel; with `operator` in it, and some megabytes of weights."""
    weights = [numpy_helper.from_array(np.zeros((megabytes * 250_000,), np.float32), "ballast")] if megabytes else []
    nodes = [helper.make_node("ReduceMean", ["x"], ["means"], axes=[1, 2], keepdims=0)]
    nodes += [helper.make_node(operator or "Identity", ["means"], ["y"], name="the-node", domain="nobody.knows" if operator else "")]
    shapes = ("x", ["N", "H", "W", 3]), ("y", ["N", 3])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nobody.knows", 1)]
    graph = helper.make_graph(nodes, "means", values[:1], values[1:], weights)
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "almena.yaml"
    path.write_text(f"state_dir: {tmp_path / 'state'}\n")
    return path


@pytest.fixture
def build(settings: Path) -> Callable[..., Any]:
    return lambda *arguments: CliRunner().invoke(app, ["build", *map(str, arguments), "-c", str(settings), "--precision", "fp32"])


def test_a_bare_file_is_built_and_what_was_assumed_is_told(build: Callable[..., Any], small_models: Path, tmp_path: Path) -> None:
    result = build(small_models / "network.tflite", "--backend", "litert", "--json")
    assert result.exit_code == 0, result.output
    (passport,) = json.loads(result.stdout)
    assert passport["identity"]["backend"] == "litert"
    assert passport["identity"]["shape"] == [1, 24, 32]
    assert passport["speed"]["per_second"] > 0
    assert "no card. Assumed" in result.stderr
    assert "no mean is taken off" in result.stderr
    for step in ("fetching", "building", "measuring"):
        assert step in result.stderr
    assert "comparing" not in result.stderr
    assert (tmp_path / "state" / "engines" / passport["file"]).is_file()


def test_the_provisional_card_is_written_completed_and_built(build: Callable[..., Any], small_models: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert build(small_models / "network.tflite", "--write-card", path).exit_code == 0
    path.write_text(path.read_text().replace("class-0", "cat"))
    result = build(path, "--batch", 2)
    assert result.exit_code == 0, result.output
    assert "Assumed" not in result.stderr
    assert "32x24, batch 2" in result.stdout
    again = build(small_models / "network.tflite", "--write-card", path)
    assert again.exit_code == 2
    assert "exists" in again.output
    assert "cat" in path.read_text()


def test_a_free_shape_is_given(build: Callable[..., Any], tmp_path: Path) -> None:
    path = classifier(tmp_path / "means.onnx")
    refused = build(path)
    assert refused.exit_code == 1
    assert "'x' (free, free, free, 3) leaves height or width free: give --shape" in refused.output.replace("\n", " ")
    result = build(path, "--shape", "48x32", "--json")
    assert json.loads(result.stdout)[0]["identity"]["shape"] == [1, 32, 48]


def test_int8_without_a_calibration_names_commands_that_can_be_typed(
    settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frames").mkdir()
    classifier(tmp_path / "my means.onnx")

    def almena(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*arguments, "-c", str(settings)])
        return result.exit_code, " ".join(result.output.split())

    code, told = almena("build", "my means.onnx", "--shape", "48x32", "--precision", "int8")
    keep, calibrate = re.findall("`almena ([^`]*DIR|[^`]*--write-card [^`]*yaml.)`", told)
    assert (code, keep) == (1, "build 'my means.onnx' --shape 48x32 --write-card 'my means.yaml'")
    assert almena(*shlex.split(keep))[0] == 0
    code, told = almena("build", "my means.yaml", "--precision", "int8")
    assert (code, f"int8 needs a calibration: run `almena {calibrate}`" in told) == (1, True)
    code, told = almena(*shlex.split(calibrate.replace("DIR", "frames")))
    assert (code, "no picture was found there" in told) == (1, True)


@pytest.mark.parametrize("damage", ["cut", "other bytes"])
def test_a_damaged_engine_is_told_and_built_again(
    build: Callable[..., Any], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = classifier(tmp_path / "means.onnx"), "--shape", "48x32", "--backend", "openvino", "--json"
    (passport,) = json.loads(build(*asked).stdout)
    blob = tmp_path / "state" / "engines" / passport["file"]
    blob.write_bytes(blob.read_bytes()[: blob.stat().st_size // 2] if damage == "cut" else b"x" * blob.stat().st_size)
    assert json.loads(build(*asked).stdout)[0]["identity"] == passport["identity"]
    assert f"engine {blob} is damaged, it is not the file that its passport tells of; it is built again" in caplog.text
    caplog.clear()
    assert build(*asked).exit_code == 0
    assert "built again" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no-such-model"], 2, "no model card is called"),
        (["no-such-file.onnx"], 1, "there is no model file"),
        (["centerface", "--shape", "wide"], 2, "WIDTHxHEIGHT"),
        (["centerface", "--write-card", "x.yaml"], 2, "has a card"),
        (["centerface", "--batch", "0"], 2, "greater than or equal to 1"),
        (["no-such-card.yaml"], 1, "no-such-card.yaml"),
    ],
)
def test_wrong_questions_end_with_2_and_wrong_models_with_1(
    build: Callable[..., Any], arguments: list[str], code: int, message: str
) -> None:
    result = build(*arguments)
    assert result.exit_code == code
    assert message in result.output


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_an_unknown_operator_is_named(build: Callable[..., Any], tmp_path: Path, backend: str) -> None:
    result = build(classifier(tmp_path / "odd.onnx", "Conjure"), "--shape", "8x8", "--backend", backend)
    assert result.exit_code == 1
    assert "odd" in result.stderr
    assert "Conjure" in result.stderr
    assert "Choose another backend" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["a", "b", "c"]}, "output 'answer' has 4 classes, and the card 3 labels"),
        ({"sha256": "0" * 64}, "expected 0000"),
        ({"decoder": {"name": "classification", "params": {"output": "answer", "activation": "relu"}}}, "decoder.params.activation"),
        ({"decoder": {"name": "classification", "params": {}}}, "decoder.params.output"),
        ({"decoder": {"name": "embedding", "params": {"output": "answer", "normalise": True}}}, "embedding is for face-embedding"),
        ({"decoder": {"name": "magic"}}, "no decoder is called 'magic'"),
        ({"input": {"layout": "NHWC", "colour": "RGB", "sizes": [[32, 32]], "resize": "stretch"}}, "not [1, 32, 32, 3]"),
        ({"input": {"layout": "NCHW", "colour": "RGB", "sizes": [[32, 24]], "resize": "stretch"}}, "not [1, 3, 24, 32]"),
        ({"input": {"layout": "NHWC", "colour": "GREY", "sizes": [[32, 24]], "resize": "stretch"}}, "not [1, 24, 32, 1]"),
        ({"format": "onnx"}, "network"),
        ({"labels": ["a", "a", "b", "c"]}, "labels must differ"),
    ],
)
def test_a_wrong_card_is_told(build: Callable[..., Any], small_models: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_card(tmp_path / "network.yaml", small_models / "network.tflite", "tflite", **changes)
    result = build(path, "--backend", "onnxruntime" if "format" in changes else "litert")
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.stderr.split())
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_quantised_input_is_refused_where_it_would_be_fed_wrongly(
    build: Callable[..., Any], small_models: Path, tmp_path: Path, backend: str
) -> None:
    path = write_card(tmp_path / "network.yaml", small_models / "network-int8.tflite", "tflite")
    result = build(path, "--backend", backend)
    assert result.exit_code == 1
    assert re.search(r"network 32x24: input '\S+' of network-\S+ is u(int)?8; only LiteRT feeds quantised", " ".join(result.stderr.split()))


def test_an_output_that_the_model_lacks_is_told_with_those_it_has(build: Callable[..., Any], small_models: Path, tmp_path: Path) -> None:
    grey = {"layout": "NCHW", "colour": "RGB", "sizes": [[40, 24]], "resize": "stretch"}
    path = write_card(tmp_path / "small.yaml", small_models / "small-NCHW.tflite", "tflite", input=grey)
    result = build(path, "--backend", "litert")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert "small: the card's decoder reads output 'answer', and the model has" in said
    assert "'same' [1, 3, 24, 40]" in said


def test_too_little_memory_is_refused_with_figures(build: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.room.CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("150000000\n")
    (tmp_path / "memory.current").write_text("100000000\n")
    result = build(classifier(tmp_path / "means.onnx"), "--shape", "8x8")
    assert result.exit_code == 1
    assert "takes about 150 MB of memory, and 50 MB are free here" in " ".join(result.stderr.split())
    assert not list((tmp_path / "state").rglob("*.blob"))


@pytest.mark.parametrize("full", ["models", "engines"])
@disk.on_small_disk(4)
def test_too_little_disk_is_refused_with_figures(tmp_path: Path, full: str, small_disk: Path) -> None:
    folders = f"engines: {{models_dir: {small_disk}}}\n" if full == "models" else f"engines: {{models_dir: {tmp_path / 'models'}}}\n"
    state = tmp_path / "state" if full == "models" else small_disk
    (tmp_path / "almena.yaml").write_text(f"state_dir: {state}\n{folders}")
    path = classifier(tmp_path / "means.onnx", megabytes=6 if full == "models" else 2)
    result = CliRunner().invoke(app, ["build", str(path), "--shape", "8x8", "--precision", "fp32", "-c", str(tmp_path / "almena.yaml")])
    assert result.exit_code == 1
    assert "needs 6 MB more, and 4 MB are free" in " ".join(result.stderr.split())
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == [disk.BALLAST]


def halves(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


def test_a_killed_build_goes_on_where_it_was_and_leaves_no_half(settings: Path, small_models: Path, tmp_path: Path) -> None:
    card = write_card(tmp_path / "network.yaml", small_models / "network.keras", "keras")
    command = [sys.executable, "-m", "agent.cli", "build", str(card), "--backend", "tensorflow", "-c", str(settings), "--json"]
    state = tmp_path / "state"
    kept = state / "models" / "converted"

    def started() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "200"})

    with started() as first:
        (converting,) = wait_until(lambda: psutil.Process(first.pid).children(), 60, "the conversion's process")
        first.kill()
        wait_until(lambda: not converting.is_running() or converting.status() == psutil.STATUS_ZOMBIE, 30, "the end of the conversion")
    assert list(kept.glob("*.sha256")) == []
    with started() as second:
        wait_until(lambda: halves(state / "engines"), 120, "the engine's first bytes")
        second.send_signal(signal.SIGKILL)
    assert halves(state)
    (digest,) = kept.glob("*.sha256")
    made = digest.stat().st_mtime_ns
    with started() as third:
        said = third.communicate(timeout=120)[0]
    assert third.returncode == 0
    assert json.loads(said)[0]["precision"] == "fp32"
    assert halves(state) == []
    assert digest.stat().st_mtime_ns == made
