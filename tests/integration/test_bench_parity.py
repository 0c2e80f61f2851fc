"""`almena bench parity` with the real models: INT8 decides as FP32 on the sample clip and on pairs, and it is told where it does not."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from agent.commands.bench import app
from agent.sample_clip import Walk, frames
from calibration.quantise import Quantiser
from calibration.samples import normalised
from engines.calibrated import Calibration, place, save
from engines.card import card
from engines.convert import converted
from engines.fetch import ensure
from engines.files import sha256
from engines.model import EngineOptions, FaceEmbedder, load_detector, load_embedder, recipe
from engines.preprocess import Image, letterbox
from tests.fakes.views import views

IN_FLOAT = 28
"""Of CenterFace's nodes, at its beginning and at its end."""
SCRIPT = (
    Walk("known", (0, 1, 3, 4), (0.2, 0.35, 0.4, 0.2), (0.75, 0.8, 1.0, 0.8), (1.0, 1.0, 1.0, 1.0)),
    Walk("unknown", (0.4, 1, 3, 4), (0.75, 0.65, 0.7, 0.8), (0.7, 0.8, 1.0, 0.7), (0.8, 0.8, 0.8, 0.8)),
)


@pytest.fixture
def config(tmp_path: Path, models_dir: Path) -> Path:
    path = tmp_path / "almena.yaml"
    path.write_text(f"state_dir: {tmp_path / 'state'}\nengines: {{models_dir: {models_dir}}}\n")
    return path


@pytest.fixture
def options(tmp_path: Path, models_dir: Path) -> EngineOptions:
    return EngineOptions(models_dir, tmp_path / "state" / "engines")


def calibrate(name: str, options: EngineOptions, pictures: Sequence[Image], ends: int = 0) -> None:
    """As the command would, but without any choice: so many nodes from each end stay in float."""
    model = card(name)
    quantiser = Quantiser(converted(model, ensure(model, options.models_dir))[0], name)
    quantiser.observe([normalised(picture, model.input) for picture in pictures])
    float_nodes = (*quantiser.nodes[:ends], *quantiser.nodes[len(quantiser.nodes) - ends :])
    file = options.engines_dir / "made.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(quantiser.quantised("u8s8", "minmax", float_nodes), str(file))
    target = place(model, options.engines_dir, "u8s8")
    record = Calibration(
        model=model.model_id, recipe=recipe(model), flavour="u8s8", ranges="minmax", frames=len(pictures), frames_sha256="",
        float_nodes=float_nodes, sensitivity={}, sqnr_db=0.0, made_at="", file=target.name, file_sha256=sha256(file),
    )  # fmt: skip
    save(record, file, target)


def run(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["parity", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    print(found)
    return found


def test_the_detector_on_the_sample_clip(tmp_path: Path, config: Path, options: EngineOptions, portraits: dict[str, Path]) -> None:
    known, unknown = (np.asarray(cv2.imread(str(path)), np.uint8) for path in portraits.values())
    shown = list(frames(known, unknown, SCRIPT))[::3]
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, shown[0].shape[1::-1])
    for frame in shown:
        writer.write(frame)
    writer.release()
    calibrate("centerface", options, [letterbox(frame, 640, 384, 0)[0] for frame in shown[1::6]], IN_FLOAT)
    (row,) = run("centerface", "--source", str(clip), "--every", "2", "--backend", "openvino", "-c", str(config))["rows"]
    assert (row["backend"], row["precision"], row["within"]) == ("openvino", "int8", True)
    assert row["frames"] == -(-len(shown) // 2)
    assert row["faces"] > 15
    assert abs(row["found"] - row["faces"]) <= max(1, 0.01 * row["faces"])
    assert row["faces"] - 1 <= row["both"] <= row["faces"]
    assert 0.98 <= row["mean_overlap"] < 1


def chips(embedder: FaceEmbedder, options: EngineOptions, pictures: Sequence[Image]) -> list[Image]:
    detector = load_detector("centerface", options)
    found = [embedder.chip(picture, marks) for picture in pictures for marks in detector.detect(picture).landmarks[:1]]
    detector.close()
    return found


def test_the_embedder_on_pairs(
    tmp_path: Path, config: Path, options: EngineOptions, portraits: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list(views(portraits, 12))
    names = [f"{number:02}.png" for number in range(len(seen))]
    (tmp_path / "photographs").mkdir()
    for name, picture in zip(names, seen, strict=True):
        assert cv2.imwrite(str(tmp_path / "photographs" / name), picture)
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        pairs = [(one, other) for one in range(len(seen)) for other in range(one)]
        rows = [(names[one], names[other], "Yes" if (one - other) % 2 == 0 else "No") for one, other in pairs]
        csv.writer(file).writerows([("file_x", "file_y", "Decision"), *rows])
    fp32 = load_embedder("dlib-resnet", EngineOptions(options.models_dir, options.engines_dir, precision="fp32"))
    calibrate("dlib-resnet", options, chips(fp32, options, seen))
    fp32.close()
    asked = ["dlib-resnet", "--pairs", str(tmp_path / "pairs.csv"), "--root", str(tmp_path / "photographs")]
    asked += ["--backend", "openvino", "-c", str(config)]
    (row,) = run(*asked)["rows"]
    assert (row["precision"], row["pairs"], row["within"]) == ("int8", len(pairs), True)
    assert abs(row["fp32"]["accuracy"] - row["candidate"]["accuracy"]) <= 0.003
    assert row["fp32"]["accuracy"] > 0.6
    monkeypatch.setattr("calibration.agreement.LOSS", -1.0)
    told = CliRunner().invoke(app, ["parity", *asked])
    assert told.exit_code == 1
    assert "decided otherwise" in told.stdout
    assert "points, allowed are -100" in told.stdout


def test_what_cannot_be_compared_is_told(tmp_path: Path, config: Path) -> None:
    result = CliRunner().invoke(app, ["parity", "centerface", "-c", str(config)])
    assert result.exit_code == 2
    assert "needs" in result.output
    assert "--source" in result.output
    uncalibrated = CliRunner().invoke(app, ["parity", "centerface", "--source", str(tmp_path), "-c", str(config)])
    assert uncalibrated.exit_code == 1
    assert "int8 needs a calibration: run `almena calibrate centerface" in str(uncalibrated.exception)
