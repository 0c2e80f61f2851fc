"""`almena calibrate`: a small classifier from end to end, and the real face models on what the two portraits give."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from agent.checkup.calibrations import calibrations
from agent.checkup.service import service_checks
from agent.commands.calibrate import app
from agent.settings import Settings
from calibration.calibrator import Calibrator, Wishes
from calibration.errors import LabelsError, SamplesError
from calibration.gate import Gate, Verdict
from calibration.search import RejectedError
from calibration.turns import in_turns
from engines.base import EngineError
from engines.calibrated import find, place
from engines.card import ModelCard, card
from engines.errors import ModelFileError
from engines.model import EngineOptions, load_classifier, load_embedder, recipe
from engines.tuning import Choice, fingerprint
from tests.fakes.classifier import save_card, stripes
from tests.fakes.rtsp_process import Server
from tests.fakes.views import views

BACKENDS = ("openvino", "onnxruntime")


@pytest.fixture(autouse=True)
def _turns_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """How fast something is decides nothing here."""
    monkeypatch.setattr(in_turns, "__defaults__", (1, 0.05))


@pytest.fixture
def classifier(tmp_path: Path) -> ModelCard:
    return save_card(tmp_path)


@pytest.fixture
def options(tmp_path: Path, models_dir: Path) -> EngineOptions:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("astronaut.png", "grace_hopper.jpg"):
        (folder / name).symlink_to(models_dir / name)
    return EngineOptions(folder, tmp_path / "state" / "engines")


def run(*arguments: str, expect: int = 0) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == expect, result.output
    return json.loads(result.stdout) if expect == 0 else result


def test_a_classifier_runs_at_int8_after_the_command(tmp_path: Path, classifier: ModelCard, options: EngineOptions) -> None:
    for number, picture in enumerate(stripes(24)):
        path = tmp_path / "frames" / "some" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), picture)
    (tmp_path / "frames" / "torn.png").write_bytes(b"torn")
    for label, standing in (("lying", False), ("standing", True)):
        (tmp_path / "labels" / label).mkdir(parents=True)
        for number, picture in enumerate(stripes(6, standing, seed=7)):
            assert cv2.imwrite(str(tmp_path / "labels" / label / f"{number}.png"), picture)
    settings = tmp_path / "almena.yaml"
    settings.write_text(f"state_dir: {tmp_path / 'state'}\nengines: {{models_dir: {options.models_dir}}}\n")
    told = run(
        str(tmp_path / "two-classes.yaml"), "--frames", str(tmp_path / "frames"), "--labels", str(tmp_path / "labels"),
        "--flavour", "both", "--json", "-c", str(settings),
    )  # fmt: skip
    assert [made["flavour"] for made in told["calibrations"]] == ["u8s8", "s8s8"]
    made = told["calibrations"][0]
    assert set(made["backends"]) == set(made["accuracy"]) == set(BACKENDS)
    assert [(one["metric"], one["count"]) for metrics in made["accuracy"].values() for one in metrics[:1]] == [("accuracy", 6)] * len(
        BACKENDS
    )
    assert {figures["count"] for figures in made["parity"].values()} == {6}
    assert all(figures["per_second"]["ratio"] > 0 for figures in made["backends"].values())
    assert set(made["sensitivity"]) == {"first", "second", "pool", "last"}
    assert not [path for path in (tmp_path / "state").rglob("*") if path.suffix in (".png", ".jpg")]
    for backend in BACKENDS:
        opened = load_classifier(str(tmp_path / "two-classes.yaml"), replace(options, backend=backend))
        assert (opened.engine.precision, opened.passport.precision) == ("int8", "int8")
        assert opened.passport.calibration is not None
        assert opened.passport.calibration.sensitivity == made["sensitivity"]
        opened.close()
        floats = load_classifier(str(tmp_path / "two-classes.yaml"), replace(options, backend=backend, precision="fp32"))
        assert (floats.engine.precision, floats.passport.calibration) == ("fp32", None)
        floats.close()


@pytest.mark.parametrize("half", [".onnx", ".json"])
def test_a_damaged_calibration_leaves_int8_out_until_it_is_made_again(
    tmp_path: Path, classifier: ModelCard, options: EngineOptions, half: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = replace(options, backend="onnxruntime")
    with Calibrator(classifier, options, Wishes(flavours=("u8s8",), ranges="minmax")) as calibrator:
        calibrator.run(stripes(24))
    settings = Settings(state_dir=tmp_path / "state")
    (whole,) = calibrations(settings)
    assert whole.state == "ok"
    path = place(classifier, options.engines_dir, "u8s8")
    choice = Choice(backend="onnxruntime", unit="cpu", precision="int8", policy="throughput")
    mark = fingerprint(classifier, recipe(classifier), options.engines_dir, choice)
    torn = path.with_suffix(half)
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    for _ in range(2):
        opened = load_classifier(str(tmp_path / "two-classes.yaml"), options)
        assert opened.passport.precision == "fp32"
        opened.close()
    (warning,) = [record.message for record in caplog.records if "until then int8 is left out" in record.message]
    for part in (
        str(torn),
        path.name,
        path.with_suffix(".json").name,
        f"run `almena calibrate {tmp_path / 'two-classes.yaml'} --frames DIR`",
    ):
        assert part in warning
    assert fingerprint(classifier, recipe(classifier), options.engines_dir, choice) != mark
    with pytest.raises(ModelFileError, match=r"damaged.*: delete .*calibrate"):
        load_classifier(str(tmp_path / "two-classes.yaml"), replace(options, precision="int8"))
    (told,) = calibrations(settings)
    assert (told.state, str(torn) in told.text, told.advice.startswith("Delete two-classes-")) == ("warn", True, True)
    assert told.advice.endswith("run `almena calibrate` again with the card of two-classes.")
    named = settings.model_copy(update={"engines": settings.engines.model_copy(update={"precision": "int8"})})
    assert calibrations(named)[0].state == "fail"
    assert "calibration " + path.stem in {check.name for check in service_checks(settings)}


@pytest.fixture(params=["video", "camera"])
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A video file, and a camera that is live."""
    if request.param == "camera":
        camera = Server("--pattern", "snow")
        try:
            yield camera.url
        finally:
            camera.kill()
        return
    path = tmp_path / "recording.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (48, 40))
    for picture in stripes(24):
        writer.write(picture)
    writer.release()
    yield str(path)


def test_frames_are_taken_from_videos_and_cameras(tmp_path: Path, options: EngineOptions, recording: str) -> None:
    """What the camera shows is noise, unlike what the gate looks at; how near INT8 comes is not asked here."""
    save_card(tmp_path, probability=1.0)
    card_file = tmp_path / "lenient.yaml"
    card_file.write_text((tmp_path / "two-classes.yaml").read_text().replace("agreement: 0.5", "agreement: 0.0"))
    settings = tmp_path / "almena.yaml"
    settings.write_text(f"state_dir: {tmp_path / 'state'}\nengines: {{models_dir: {options.models_dir}}}\n")
    told = run(
        str(card_file), "--frames", recording, "--watch", "2s", "--samples", "20", "--budget", "2s", "--json",
        "-c", str(settings),
    )  # fmt: skip
    (made,) = told["calibrations"]
    assert 12 <= made["frames"] <= 20
    assert place(card(str(card_file)), options.engines_dir, "u8s8").is_file()


def test_int8_is_refused_with_figures_and_layers(tmp_path: Path, options: EngineOptions) -> None:
    strict = save_card(tmp_path, probability=1e-7)
    with Calibrator(strict, options, Wishes()) as calibrator, pytest.raises(RejectedError) as refused:
        calibrator.run(stripes(24))
    for part in ("probabilities differ by", "allowed are 7.5e-08", "of 4 nodes in float still", "most sensitive nodes are"):
        assert part in str(refused.value)
    assert not place(strict, options.engines_dir, "u8s8").exists()
    with pytest.raises(EngineError, match="needs a calibration"):
        load_classifier(str(tmp_path / "two-classes.yaml"), replace(options, precision="int8"))


def test_the_layers_that_hurt_stay_in_float(tmp_path: Path, options: EngineOptions) -> None:
    model = save_card(tmp_path, probability=0.002, spread=60.0)
    with Calibrator(model, options, Wishes(flavours=("u8s8",), ranges="minmax")) as calibrator:
        (outcome,) = calibrator.run(stripes(24))
    assert outcome.tried[0][0] == 0
    assert "probabilities differ" in outcome.tried[0][1]
    assert set(outcome.calibration.float_nodes) <= {"pool", "last", "second"}
    assert outcome.calibration.float_nodes
    found = find(model, recipe(model), options.engines_dir, "u8s8")
    assert found is not None
    assert found[1] == outcome.calibration


class Wary(Calibrator):
    """Whose held-back samples refuse whatever they are asked about first."""

    def judged(self, file: Path, gate: Gate) -> dict[str, Verdict]:
        verdicts = super().judged(file, gate)
        return {name: replace(verdict, why="not yet") if gate.card is self.card else verdict for name, verdict in verdicts.items()}


def test_what_is_refused_on_held_back_samples_goes_on_with_more_in_float(classifier: ModelCard, options: EngineOptions) -> None:
    with Wary(classifier, options, Wishes(flavours=("u8s8",), ranges="minmax")) as calibrator:
        (outcome,) = calibrator.run(stripes(24))
    assert (outcome.calibration.refusals, len(outcome.calibration.float_nodes)) == (1, 1)
    assert outcome.tried[0][0] == 0
    assert "held back from every choice openvino: not yet" in outcome.tried[0][1]


def test_pictures_of_which_the_model_says_the_same_are_of_another_kind(classifier: ModelCard, options: EngineOptions) -> None:
    black = [np.zeros((40, 48, 3), np.uint8) for _ in range(20)]
    with Calibrator(classifier, options, Wishes()) as calibrator:
        with pytest.raises(SamplesError, match="20 frames held 1 pictures that differ"):
            calibrator.run(black)
        with pytest.raises(SamplesError, match="no picture to calibrate with"):
            calibrator.run([])
        with pytest.raises(LabelsError, match="no folder"):
            calibrator.run(stripes(20), Path("nowhere"))


def test_photographs_of_people_are_no_radiographs(models_dir: Path, tmp_path: Path) -> None:
    with (
        Calibrator(card("chest-xray"), EngineOptions(models_dir, tmp_path / "engines"), Wishes()) as calibrator,
        pytest.raises(SamplesError, match="6 of 6 pictures are unlike what the model has learned from"),
    ):
        calibrator.run(stripes(12))


def test_radiographs_are_no_faces(models_dir: Path, tmp_path: Path) -> None:
    grey = [np.repeat(picture[..., :1], 3, 2) for picture in stripes(12)]
    for name in ("centerface", "dlib-resnet"):
        with (
            Calibrator(card(name), EngineOptions(models_dir, tmp_path / "engines"), Wishes()) as calibrator,
            pytest.raises(SamplesError, match="finds a face in 0 of 12" if name == "centerface" else "held 0 faces"),
        ):
            calibrator.run(grey)


def test_the_embedder_keeps_its_decisions(models_dir: Path, tmp_path: Path, portraits: dict[str, Path]) -> None:
    options = EngineOptions(models_dir, tmp_path / "engines")
    with Calibrator(card("dlib-resnet"), options, Wishes(flavours=("u8s8",), samples=24, budget_s=8.0)) as calibrator:
        (outcome,) = calibrator.run(views(portraits, 32))
    assert outcome.calibration.sqnr_db > 20
    assert set(outcome.verdicts) == set(BACKENDS)
    for backend in BACKENDS:
        opened = load_embedder("dlib-resnet", replace(options, backend=backend, precision="int8"))
        assert opened.engine.precision == "int8"
        assert opened.passport.parity is not None
        assert opened.passport.parity.distance is not None
        assert opened.passport.parity.distance <= 0.06
        opened.close()


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ("nowhere", "no folder, no file, no address"),
        ("", "no folder, no file, no address"),
        ("torn", "none of its 1 pictures can be read"),
        ("empty", "empty: no picture was found there"),
    ],
)
def test_bad_frames_are_told(tmp_path: Path, options: EngineOptions, frames: str, message: str) -> None:
    save_card(tmp_path)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.jpg").write_bytes(b"torn")
    (tmp_path / "empty").mkdir()
    settings = tmp_path / "almena.yaml"
    settings.write_text(f"state_dir: {tmp_path / 'state'}\nengines: {{models_dir: {options.models_dir}}}\n")
    place = frames if frames in ("nowhere", "") else str(tmp_path / frames)
    result = CliRunner().invoke(app, [str(tmp_path / "two-classes.yaml"), "--frames", place, "-c", str(settings)])
    assert result.exit_code == 1
    assert message in str(result.exception)
