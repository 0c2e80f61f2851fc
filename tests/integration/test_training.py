"""Trainings of a tiny network in processes of their own: to the end, killed and resumed, and on two workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

from engines.card import card
from engines.fetch import ensure_asset
from tests.fakes.labelled import draw, tiny_recipe
from tests.fakes.ports import free_port
from training.recipe import LEARNING

PATIENCE_S = 240
LOST_S = 60


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw(folder / "train", 45, 1)
    draw(folder / "val", 12, 2)
    return folder


def a_recipe(folder: Path, leave_out: Collection[str] = (), **changes: Any) -> Path:
    path = folder / "terrain.yaml"
    kept = {key: value for key, value in tiny_recipe().items() if key not in leave_out}
    path.write_text(yaml.safe_dump(kept | changes), encoding="utf-8")
    return path


@contextmanager
def training(pictures: Path, recipe: Path, out: Path, *more: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "agent.cli",
        "train",
        "--data",
        str(pictures),
        "--recipe",
        str(recipe),
        "--out",
        str(out),
        "--json",
        *more,
    ]
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables) as process:
        try:
            yield process
        finally:
            process.kill()


def done(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors[-3000:]
    answer: dict[str, Any] = json.loads(said) if said else {}
    return answer


def epochs(out: Path) -> dict[str, list[dict[str, Any]]]:
    """What was reached in each epoch of each network, but for the time that it took."""
    networks = json.loads((out / "training.json").read_text())["networks"]
    return {
        name: [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in one["epochs"]]
        for name, one in networks.items()
    }


@pytest.fixture(scope="module")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("trained")
    with training(pictures, a_recipe(folder), folder / "out") as process:
        return folder / "out", done(process)


def test_the_model_comes_with_its_card_and_figures(trained: tuple[Path, dict[str, Any]], pictures: Path, tmp_path: Path) -> None:
    out, said = trained
    made = card(str(out / "terrain.yaml"))
    assert (made.labels, made.positive, made.model_id) == (("intact", "damaged"), "damaged", said["model"])
    assert made.decoder.params["maps"] == "maps"
    assert "90 pictures out of fold (3 folds by patient group)" in made.thresholds.chosen_on
    shapes = {value.name: len(value.type.tensor_type.shape.dim) for value in onnx.load(str(out / "terrain.onnx")).graph.output}
    assert shapes == {"features": 2, "logits": 2, "maps": 4}
    assert [one.metric for one in made.expected if "24 pictures of other patients (val)" in one.data] == [
        "accuracy",
        "intact against damaged",
        "sensitivity for damaged at the operating point",
        "specificity for damaged at the operating point",
        "ROC AUC for damaged",
    ]
    assert made.familiar
    assert "24 pictures that no network learned from" in made.familiar.chosen_on
    assert said["out_of_fold"]["pictures"] == 90
    assert (out / "curves.png").read_bytes()[:4] == (out / "out-of-fold.png").read_bytes()[:4] == b"\x89PNG"
    settings = tmp_path / "almena.yaml"
    settings.write_text(
        f"device: {{name: d}}\nstate_dir: {tmp_path}/state\nengines: {{models_dir: {tmp_path}/models, backend: onnxruntime}}\n"
    )
    command = [sys.executable, "-m", "agent.cli", "eval", "classify", "--model", str(out / "terrain.yaml"), "--data", str(pictures / "val")]
    command += ["--config", str(settings), "--plot", str(tmp_path / "figures.svg"), "--json"]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert judged.returncode == 0, judged.stderr[-3000:]
    figures = json.loads(judged.stdout)
    assert figures["accuracy"] == pytest.approx(made.expected[0].value, abs=1e-4)
    assert figures["accuracy_of"] == "the likeliest class"
    assert figures["accuracy"] >= 0.75  # 24 pictures of other patients; the two kinds are easy to tell
    assert sum(map(sum, figures["confusion"]["counts"])) == figures["pictures"] == 24
    assert figures["positive"]["label"] == "damaged"
    point = figures["operating_point"]
    assert (point["rule"], point["threshold"], point["abstained"]) == ("classification", made.thresholds.score, {})
    for name in ("sensitivity", "specificity"):
        assert point[name] == figures["positive"][name]
    assert (tmp_path / "figures.svg").is_file()


def test_a_killed_training_goes_on_and_sees_the_same_epochs(trained: tuple[Path, dict[str, Any]], pictures: Path, tmp_path: Path) -> None:
    recipe, out = a_recipe(tmp_path), tmp_path / "out"
    with training(pictures, recipe, out) as process:
        assert process.stderr
        line = next(line for line in process.stderr if "fold-2  epoch 3 " in line)
        process.kill()
        process.wait(PATIENCE_S)
    assert "min left" in line
    with training(pictures, recipe, out) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors[-3000:]
    assert "fold-1  epoch" not in errors
    assert epochs(out) == epochs(trained[0])


def test_another_recipe_does_not_go_on_from_it(trained: tuple[Path, dict[str, Any]], pictures: Path, tmp_path: Path) -> None:
    with training(pictures, a_recipe(tmp_path, rate=0.001), trained[0]) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "holds a training of another recipe or other pictures" in errors


def test_a_head_in_closed_form_on_a_frozen_base(pictures: Path, models_dir: Path, tmp_path: Path) -> None:
    weights = ensure_asset("efficientnet-lite0", models_dir)
    feed = {"layout": "NHWC", "colour": "GREY", "sizes": [[64, 64]], "mean": [127.0], "scale": [128.0], "resize": "stretch"}
    recipe = a_recipe(tmp_path, LEARNING, network="efficientnet-lite0", input=feed, taps=[1, 2], head={"shrinkage": 0.5, "views": 2})
    out = tmp_path / "out"
    with training(pictures, recipe, out, "--weights", str(weights)) as process:
        assert process.stderr
        next(line for line in process.stderr if "looked at 1 of 2 times" in line)
        process.kill()
        process.wait(PATIENCE_S)
    first = (out / "views" / "view-1.npz").stat().st_mtime_ns
    with training(pictures, recipe, out, "--weights", str(weights)) as process:
        said, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors[-3000:]
    assert "looked at 2 of 2 times" in errors
    assert (out / "views" / "view-1.npz").stat().st_mtime_ns == first
    assert json.loads(said)["out_of_fold"]["accuracy"]["value"] >= 0.9
    assert (out / "terrain.onnx").stat().st_size < 500_000  # one trunk for all folds
    with training(pictures, recipe, tmp_path / "other", "--weights", str(out / "terrain.onnx")) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, "terrain.onnx holds no weights as PyTorch writes them" in errors) == (1, True)
    (tmp_path / "nothing").mkdir()
    with training(tmp_path / "nothing", recipe, tmp_path / "none") as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, "holds no pictures" in errors) == (1, True)
    assert not (tmp_path / "none").exists(), "no weights are fetched for nothing"


def test_two_workers_compute_what_one_does_and_go_on_after_one_was_lost(pictures: Path, tmp_path: Path) -> None:
    recipe = a_recipe(tmp_path, folds=0, epochs=30, batch=90, dropout=0.0)  # one step an epoch, a tenth of a second
    with training(pictures, recipe, tmp_path / "alone") as process:
        done(process)
    peers = ",".join(f"127.0.0.1:{free_port()}" for _ in range(2))
    out = tmp_path / "together"

    def worker(number: int) -> Any:
        return training(pictures, recipe, out, "--workers", ALMENA_WORKERS=peers, JOB_COMPLETION_INDEX=str(number))

    with worker(0) as chief, worker(1) as other:
        assert chief.stderr
        next(line for line in chief.stderr if "epoch 2 " in line)
        other.kill()
        _, errors = chief.communicate(timeout=LOST_S)
        assert chief.returncode == 1
        assert "worker 0 of 2 lost the others" in errors
    with worker(0) as chief, worker(1) as other:
        done(chief)
        done(other)
    alone, together = ([epoch["loss"] for epoch in epochs(tmp_path / name)["whole"]] for name in ("alone", "together"))
    assert len(together) >= 8
    assert together[:8] == pytest.approx(alone[:8], abs=1e-3)


def test_a_worker_that_does_not_know_its_number_says_so(pictures: Path, tmp_path: Path) -> None:
    with training(
        pictures, a_recipe(tmp_path), tmp_path / "out", "--workers", ALMENA_WORKERS="a:1,b:2", JOB_COMPLETION_INDEX="2"
    ) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "JOB_COMPLETION_INDEX is '2', not the number of one of the 2 workers" in errors
