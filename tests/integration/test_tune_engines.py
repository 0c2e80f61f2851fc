"""Tuning and measuring with real models and runtimes, and vision running what was chosen."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from agent.commands import bench as command
from agent.commands import build, tune
from agent.commands.tune import settings_of
from agent.vision.face_kit import FaceKit
from calibration.calibrator import Calibrator, Wishes
from calibration.errors import CalibrationError
from calibration.loadgen import loadgen
from calibration.quantise import Quantiser
from calibration.samples import normalised
from calibration.scenarios import Runner
from calibration.tuner import Tuned, Tuner
from calibration.zoo import SPECS, cards_of, ensure_zoo
from engines.backends.trtexec import Figures
from engines.base import EngineError
from engines.calibrated import Flavour
from engines.card import card
from engines.errors import MissingRuntimeError
from engines.files import sha256
from engines.model import BATCH, Classifier, EngineOptions, Workshop, load_classifier, load_embedder
from engines.preprocess import fed
from engines.tuning import Goal
from tests.fakes.cards import write_card
from tests.fakes.classifier import save_card, stripes
from tests.waiting import wait_until

RUNTIMES = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    path = folder / "almena.yaml"
    path.write_text(f"state_dir: {folder / 'state'}\nengines: {{models_dir: {models_dir}}}\n")
    return path


@pytest.fixture(scope="module")
def options(config: Path) -> EngineOptions:
    settings = settings_of(config)
    return EngineOptions(settings.models_dir, settings.engines_dir)


@pytest.fixture(scope="module")
def tunings(options: EngineOptions) -> dict[str, Tuned]:
    """Of both default models for throughput, the policy that the settings have."""
    goal: Goal = "throughput"
    return {name: Tuner(card(name), options, goal, 4.0, backends=RUNTIMES).run() for name in ("centerface", "dlib-resnet")}


def test_vision_runs_what_the_tuner_chose(config: Path, tunings: dict[str, Tuned], portraits: dict[str, Path]) -> None:
    image = np.asarray(cv2.imread(str(portraits["astronaut"])), np.uint8)
    kit = FaceKit.open(settings_of(config))
    try:
        for model in (kit.detector, kit.embedder):
            chosen = tunings[model.card.name].tuning
            identity = model.passport.identity
            assert (identity.backend, identity.unit, model.passport.precision) == (
                chosen.choice.backend, chosen.choice.unit, chosen.choice.precision,
            )  # fmt: skip
            assert (identity.policy, identity.threads, identity.streams) == (
                chosen.choice.policy, chosen.choice.threads, chosen.choice.streams,
            )  # fmt: skip
            assert model.why == chosen.why
        found = kit.detector.detect(image)
        assert len(found) == 1
        chips = [kit.embedder.chip(image, found.landmarks[0])] * (BATCH + 1)
        vectors = kit.embed(chips)
        assert np.linalg.norm(vectors - vectors[0], axis=1).max() < 0.05
    finally:
        kit.close()


def test_engines_of_a_tuning_are_kept_for_both_batches(options: EngineOptions, tunings: dict[str, Tuned]) -> None:
    batches = {
        passport.identity.shape[0]
        for passport in Workshop(card("dlib-resnet"), options).store.passports()
        if "dlib" in passport.identity.model
    }
    assert {1, BATCH} <= batches


def bench(model: str, config: Path, *arguments: str) -> dict[str, Any]:
    asked = ["engine", model, "--seconds", "0.05", "--repeats", "2", "--config", str(config), "--json", *arguments]
    told = CliRunner().invoke(command.app, asked)
    assert told.exit_code == 0, told.output
    found: dict[str, Any] = json.loads(told.stdout)
    return found


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("policy", ["latency", "throughput"])
def test_an_engine_beside_its_bare_runtime(config: Path, backend: str, policy: str) -> None:
    found = bench("dlib-resnet", config, "--backend", backend, "--precision", "fp32", "--policy", policy, "--batch", "2")
    assert (found["backend"], found["precision"], found["batch"], found["size"]) == (backend, "fp32", 2, [150, 150])
    single = found["scenarios"]["single_stream"]
    assert 0 < single["p50_ms"] <= single["result_p90_ms"] <= single["p99_ms"]
    assert found["scenarios"]["multi_stream"]["samples_per_query"] == 8
    assert found["scenarios"]["offline"]["result_per_second"] > 0
    transfers = found["transfers"]
    assert transfers["inclusive_p50_ms"] == transfers["exclusive_p50_ms"] > 0
    assert 0.2 < found["overhead"]["call"]["ratio"] < 5
    assert 0.2 < found["overhead"]["throughput"]["ratio"] < 5
    assert "not available" in found["energy"]["missing"] or found["energy"]["joules_per_inference"] > 0


def test_an_engine_beside_its_runtimes_own_program(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("dlib-resnet", config, "--backend", "onnxruntime", "--precision", "fp32", "--batch", "2", "--cross-check")
    assert "trtexec" in bench(*asked)["cross_check"]["missing"]
    monkeypatch.setattr("engines.backends.onnxruntime.OnnxRuntimeBackend.cross_check", lambda *_: Figures(50.0, 40.0, 60.0, 30.0, 50.0))
    found = bench(*asked)
    checked = found["cross_check"]
    assert checked["images_per_second"] == 100.0
    assert checked["throughput_ratio"] == found["scenarios"]["offline"]["result_per_second"] / 100
    assert checked["latency_ratio"] == found["transfers"]["inclusive_p50_ms"] / 40


def test_loadgen_drives_the_same_engine() -> None:
    calls: list[int] = []
    what = Runner(lambda: calls.append(1), 2, 2)
    if platform.machine() != "x86_64":
        with pytest.raises(MissingRuntimeError, match="almena\\[loadgen"):
            loadgen(what, 1000.0, 0.1)
        return
    found = loadgen(what, 1000.0, 0.1)
    assert found.keys() == {"single_stream_p90_ms", "multi_stream_p99_ms", "offline_per_second"}
    assert min(found.values()) > 0
    assert len(calls) > 50

    def fail() -> None:
        raise EngineError("out of order")

    with pytest.raises(EngineError, match="out of order"):
        loadgen(Runner(fail, 1, 1), 1000.0, 0.05)


def test_the_tuned_engine_is_what_is_measured_when_nothing_is_asked_for(config: Path, tunings: dict[str, Tuned]) -> None:
    found = bench("dlib-resnet", config)
    assert found["why"] == tunings["dlib-resnet"].tuning.why
    assert found["backend"] == tunings["dlib-resnet"].tuning.choice.backend


@pytest.fixture(scope="module")
def zoo(cache_dir: Path) -> Path:
    """Models of the bench, made once on this machine."""
    folder = cache_dir / "models"
    ensure_zoo(["grey-cnn"], folder)
    return folder


def test_a_tuning_that_was_killed_leaves_nothing_to_the_next_one(small_models: Path, tmp_path: Path) -> None:
    card_file = write_card(tmp_path / "network.yaml", small_models / "network.tflite", "tflite")
    config, engines = tmp_path / "almena.yaml", tmp_path / "state" / "engines"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n")
    asked = [str(card_file), "--backends", "litert", "--json", "-c", str(config), "--budget"]
    with subprocess.Popen(
        [sys.executable, "-m", "agent.cli", "tune", *asked, "60s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        wait_until(lambda: list(engines.glob(".trials.*.part/*")), 60, "the first engine of the trials")
        first.kill()
    assert list(engines.glob(".*"))
    told = CliRunner().invoke(tune.app, [*asked, "0.5s"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["tunings"][0]["choice"]["backend"] == "litert"
    assert list(engines.glob(".*")) == []


def test_a_file_that_is_itself_int8_is_never_said_to_be_fp32(small_models: Path, tmp_path: Path) -> None:
    note = "the file itself is int8; it was not compared with an FP32 model"
    card_file = write_card(tmp_path / "network.yaml", small_models / "network-int8.tflite", "tflite")
    config = tmp_path / "almena.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\nengines: {{policy: latency}}\n")

    def told(app: Any, *asked: str) -> str:
        result = CliRunner().invoke(app, [*asked, "-c", str(config)])
        assert result.exit_code == 0, result.output
        return result.stdout

    [tuned] = json.loads(told(tune.app, str(card_file), "--backends", "litert", "--budget", "2s", "--json"))["tunings"]
    assert (tuned["choice"]["backend"], tuned["choice"]["precision"]) == ("litert", "int8")
    assert note in tuned["why"]
    assert {one["precision"] for one in tuned["candidates"] if one["latency_p50_ms"]} == {"int8"}
    found = bench(str(card_file), config)
    assert (found["backend"], found["precision"], found["parity"]["note"]) == ("litert", "int8", note)
    asked = (str(card_file), "--backends", "litert", "--batches", "1", "--rounds", "1", "--seconds", "0.05", "--json")
    [row] = json.loads(told(command.app, "matrix", *asked))["rows"]
    assert (row["precision"], row["accuracy"], row["accuracy_is"]) == ("int8", None, note)
    assert f"against FP32 {note}" in " ".join(told(build.app, str(card_file), "--backend", "litert").split())


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_file_of_quantised_nodes_is_int8_whatever_is_asked_for(tmp_path: Path, models_dir: Path, backend: str) -> None:
    """Its input and output are float; nothing but its nodes tells."""
    plain = save_card(tmp_path)
    quantiser = Quantiser(tmp_path / "two-classes.onnx", plain.name)
    quantiser.observe([normalised(fed(picture, plain.input, 32, 32), plain.input) for picture in stripes(9)])
    flavour: Flavour = "u8s8" if platform.machine() in ("x86_64", "AMD64") else "s8s8"
    onnx.save(quantiser.quantised(flavour, "minmax"), str(tmp_path / "quantised.onnx"))
    path = tmp_path / "quantised.yaml"
    told = (tmp_path / "two-classes.yaml").read_text().replace(plain.sha256, sha256(tmp_path / "quantised.onnx"))
    path.write_text(told.replace("path: two-classes.onnx", "path: quantised.onnx"))
    options = EngineOptions(models_dir, tmp_path / "engines", backend)
    for asked in ("auto", "fp32"):
        for _ in range(2):
            opened = load_classifier(str(path), replace(options, precision=asked))
            passport = opened.passport
            assert (opened.engine.precision, passport.precision, passport.ordered) == ("int8", "int8", "fp32")
            assert passport.parity is not None
            assert passport.parity.note == "the file itself is int8; it was not compared with an FP32 model"
            opened.close()
    found = Tuner(card(str(path)), options, "latency", 1.0, backends=[backend]).run()
    assert found.tuning.choice.precision == "int8"
    assert {row.precision for row in found.rows if row.cost is not None} == {"int8"}
    tuned = load_classifier(str(path), replace(options, backend="auto", policy="latency"))
    assert (tuned.engine.precision, tuned.passport.identity.precision) == ("int8", "fp32")
    tuned.close()
    with pytest.raises(CalibrationError, match="its file is int8 already"):
        Calibrator(card(str(path)), options, Wishes())


def test_what_does_not_fit_into_memory_is_not_tried(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.room.available_memory", lambda: 120_000_000)
    options = EngineOptions(models_dir, tmp_path / "engines")
    model = save_card(tmp_path)
    found = Tuner(model, options, "latency", 1.0, backends=RUNTIMES).run()
    assert found.tuning.choice.backend == "onnxruntime"
    left_out = [row for row in found.rows if row.choice.backend == "openvino"]
    assert {row.outcome for row in left_out} == {"not tried"}
    assert all("takes about 150 MB of memory, and 120 MB are free here" in row.why for row in left_out)
    with pytest.raises(EngineError, match="two-classes: converting and building it takes about 150 MB"):
        Calibrator(model, options, Wishes())


def test_a_model_of_the_bench_answers_differently_to_different_pictures(zoo: Path, tmp_path: Path) -> None:
    [small] = cards_of(["grey-cnn"], zoo)
    assert (small.input.channels, small.input.sizes, small.positive) == (1, ((128, 128),), "positive")
    loaded = Classifier(Workshop(small, EngineOptions(zoo, tmp_path / "engines", "openvino", "fp32")))
    random = np.random.default_rng(3)
    pictures = [cv2.resize(random.integers(0, 255, (n, n), np.uint8), (128, 128)) for n in (2, 3, 5, 9, 17, 33)]
    probabilities = loaded.classify([cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR) for picture in pictures]).probabilities
    assert probabilities[:, 1].std() > 0.02
    loaded.close()


def test_a_model_of_the_bench_is_made_once(zoo: Path) -> None:
    told: list[str] = []
    before = (zoo / "grey-cnn" / "saved_model.pb").stat().st_mtime_ns
    ensure_zoo(["grey-cnn"], zoo, lambda what, _done, _total: told.append(what))
    assert told == []
    assert (zoo / "grey-cnn" / "saved_model.pb").stat().st_mtime_ns == before


def test_a_model_that_cannot_be_made_is_an_error_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPECS, "odd", replace(SPECS["resnet-50"], keras="NoSuchNet"))
    with pytest.raises(EngineError, match=r"odd: TensorFlow could not make it .*'odd'"):
        ensure_zoo(["odd"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_almena_beside_tensorflows_own_signature(zoo: Path, tmp_path: Path) -> None:
    config = tmp_path / "almena.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\nengines: {{models_dir: {zoo}}}\n")
    found = bench("grey-cnn", config, "--backend", "openvino", "--precision", "fp32", "--batch", "2", "--against", "tensorflow")
    against = found["against"]
    assert against["batch"] == 2
    assert against["ratio"] > 0
    assert against["baseline_per_second"] > 0
    assert "signature" in against["baseline"]


def test_the_embedder_starts_fast_from_its_cached_engine(options: EngineOptions, tunings: dict[str, Tuned]) -> None:
    """Far from the goal of half a second on an idle machine: a start that builds or judges again takes several seconds."""
    loaded = load_embedder("dlib-resnet", options)
    stored = {path: path.stat().st_mtime_ns for path in options.engines_dir.glob("dlib*")}
    loaded.close()
    load_embedder("dlib-resnet", options).close()
    assert {path: path.stat().st_mtime_ns for path in options.engines_dir.glob("dlib*")} == stored
