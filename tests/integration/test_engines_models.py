"""The real default models on the public-domain portraits."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from agent.cli import app
from engines.base import EngineError
from engines.card import card
from engines.convert import converted
from engines.decoders.base import overlaps
from engines.errors import WrongHashError
from engines.model import EngineOptions, FaceDetector, FaceEmbedder, load_detector, load_embedder
from engines.parity import pictures
from engines.preprocess import Image


@pytest.fixture(scope="module")
def images(portraits: dict[str, Path]) -> dict[str, Image]:
    return {name: np.asarray(cv2.imread(str(path)), np.uint8) for name, path in portraits.items()}


@pytest.fixture(scope="module", params=[("openvino", "fp32"), ("openvino", "auto"), ("onnxruntime", "fp32")], ids="-".join)
def options(request: pytest.FixtureRequest, models_dir: Path, engines_dir: Path) -> EngineOptions:
    backend, precision = request.param
    return EngineOptions(models_dir, engines_dir, backend, precision)


@pytest.fixture(scope="module")
def detector(options: EngineOptions) -> Any:
    made = load_detector("centerface", options)
    yield made
    made.close()


@pytest.fixture(scope="module")
def embedder(options: EngineOptions) -> Any:
    made = load_embedder("dlib-resnet", options)
    yield made
    made.close()


def test_each_portrait_has_one_face_where_the_asset_says(detector: FaceDetector, images: dict[str, Image], models_dir: Path) -> None:
    known = pictures(models_dir)
    assert known is not None
    for image, landmarks in zip(known.images, known.landmarks, strict=True):
        found = detector.detect(image)
        assert len(found) == 1
        assert found.scores[0] > 0.8
        np.testing.assert_allclose(found.landmarks[0], landmarks, atol=3)


@pytest.mark.parametrize("scale", [0.3, 0.5, 1.0, 2.0])
def test_boxes_are_in_pixels_of_the_picture_at_any_size(detector: FaceDetector, images: dict[str, Image], scale: float) -> None:
    image = images["grace-hopper"]
    whole = detector.detect(image).boxes
    found = detector.detect(np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8))
    assert overlaps(whole, found.boxes / np.float32(scale))[0, 0] > 0.75


def test_a_picture_without_a_face_has_none(detector: FaceDetector) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    assert len(detector.detect(noise)) == 0
    assert len(detector.detect(np.zeros((480, 640, 3), np.uint8))) == 0


def test_an_engine_that_gives_way_to_one_of_another_size_is_closed_when_its_last_call_is_over(
    models_dir: Path, engines_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.kept.KEPT", 1)
    detector = load_detector("centerface", EngineOptions(models_dir, engines_dir, "onnxruntime", "fp32"))
    square = {"image": np.zeros((1, 320, 320, 3), np.uint8)}
    with detector._others.using((320, 320)) as (engine, _):
        detector.detect(np.zeros((640, 480, 3), np.uint8))
        assert engine.infer(square)
    with pytest.raises(EngineError, match="centerface 320x320: the engine is closed"):
        engine.infer(square)
    with detector._others.using((320, 320)) as (anew, _):
        assert anew.infer(square)
    assert anew.infer(square)
    detector.close()
    with pytest.raises(EngineError, match="closed"):
        anew.infer(square)


def test_a_loaded_engine_keeps_no_copy_of_its_file_in_memory(models_dir: Path, engines_dir: Path) -> None:
    embedder = load_embedder("dlib-resnet", EngineOptions(models_dir, engines_dir, "openvino", "fp32"))
    file = engines_dir / embedder.passport.file
    mapped = Path("/proc/self/smaps").read_text().split(f"{file}\n", 1)[1]
    resident, dirty = (int(re.search(rf"^{name}: +(\d+) kB$", mapped, re.MULTILINE)[1]) for name in ("Rss", "Private_Dirty"))  # type: ignore[index]
    assert 1024 * resident < file.stat().st_size / 2
    assert dirty == 0
    assert len(embedder.embed(np.zeros((1, 150, 150, 3), np.uint8))) == 1
    embedder.close()


@pytest.mark.parametrize("bad", [np.zeros((10, 10), np.uint8), np.zeros((10, 10, 4), np.uint8), np.zeros((0, 10, 3), np.uint8)])
def test_what_is_no_picture_is_an_error(detector: FaceDetector, bad: Any) -> None:
    with pytest.raises(EngineError, match="must be"):
        detector.detect(bad)


def test_the_same_person_is_near_and_another_is_far(detector: FaceDetector, embedder: FaceEmbedder, images: dict[str, Image]) -> None:
    chips = []
    for image in (images["astronaut"], images["astronaut"][:, ::-1] // 2, images["grace-hopper"]):
        found = detector.detect(np.ascontiguousarray(image))
        chips.append(embedder.chip(np.ascontiguousarray(image), found.landmarks[0]))
    templates = embedder.embed(np.stack(chips))
    assert templates.vectors.shape == (3, 128)
    assert templates.model == embedder.model_id == "dlib-resnet@55533b28a958"
    verify = embedder.card.thresholds.verify
    assert verify == 0.61
    first, mirrored, other = templates.vectors
    assert np.linalg.norm(first - mirrored) < verify < np.linalg.norm(first - other)


def test_many_faces_at_once_get_the_templates_of_one_at_a_time(embedder: FaceEmbedder, images: dict[str, Image]) -> None:
    image = np.asarray(cv2.resize(images["grace-hopper"], (150, 150)), np.uint8)
    chips = np.stack([np.roll(image, 9 * index, 1) for index in range(9)])
    single = np.concatenate([embedder.embed(chips[index : index + 1]).vectors for index in range(9)])
    allowed = embedder.card.allowance.distance or 0.0
    for count in (2, 3, 4, 5, 7, 9):
        together = embedder.embed(chips[:count]).vectors
        assert together.shape == (count, 128)
        assert np.linalg.norm(together - single[:count], axis=1).max() < allowed


def test_no_chips_are_no_templates(embedder: FaceEmbedder) -> None:
    assert embedder.embed(np.zeros((0, 150, 150, 3), np.uint8)).vectors.shape == (0, 128)


def test_many_threads_see_the_same(detector: FaceDetector, images: dict[str, Image]) -> None:
    expected = {name: detector.detect(image).boxes for name, image in images.items()}
    wrong: list[str] = []

    def work(name: str) -> None:
        wrong.extend(name for _ in range(5) if not np.allclose(detector.detect(images[name]).boxes, expected[name], atol=0.1))

    threads = [threading.Thread(target=work, args=(name,)) for name in images for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_backends_agree_at_fp32(models_dir: Path, engines_dir: Path, images: dict[str, Image]) -> None:
    found, templates = [], []
    for backend in ("openvino", "onnxruntime"):
        options = EngineOptions(models_dir, engines_dir, backend, "fp32")
        detector, embedder = load_detector("centerface", options), load_embedder("dlib-resnet", options)
        faces = detector.detect(images["astronaut"])
        found.append(faces)
        landmarks = found[0].landmarks[0]
        templates.append(embedder.embed(embedder.chip(images["astronaut"], landmarks)[None]).vectors)
        detector.close()
        embedder.close()
    np.testing.assert_allclose(found[0].boxes, found[1].boxes, atol=0.05)
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-3)
    np.testing.assert_allclose(templates[0], templates[1], atol=1e-3)


def test_a_second_start_is_quick(models_dir: Path, engines_dir: Path) -> None:
    """In processor time: how much of it a busy machine gives in a second is not the code's."""
    options = EngineOptions(models_dir, engines_dir)
    for load in (lambda: load_detector("centerface", options), lambda: load_embedder("dlib-resnet", options)):
        load().close()

        def quick() -> bool:
            started = time.process_time()
            load().close()  # noqa: B023
            return time.process_time() - started < 1.0

        assert any(quick() for _ in range(10))


def test_a_model_with_another_hash_is_never_loaded(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "centerface.onnx").write_bytes(b"something else")
    with pytest.raises(WrongHashError, match="quarantine"):
        load_detector("centerface", EngineOptions(tmp_path / "models", tmp_path / "engines"))
    assert [path.parent.name for path in tmp_path.rglob("*") if path.is_file()] == ["quarantine"]


def test_a_detector_is_no_embedder(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is for face-detection, not for face-embedding"):
        load_embedder("centerface", EngineOptions(tmp_path, tmp_path))


def test_the_real_dlib_file_has_29_convolutions(models_dir: Path) -> None:
    import onnx

    model = onnx.load(str(converted(card("dlib-resnet"), models_dir / "dlib-resnet.dat")[0]))
    assert [node.op_type for node in model.graph.node].count("Conv") == 29


@pytest.mark.parametrize("name", ["blazeface-short", "blazeface-full"])
def test_blazeface_finds_the_portraits(name: str, models_dir: Path, engines_dir: Path, images: dict[str, Image]) -> None:
    detector = load_detector(name, EngineOptions(models_dir, engines_dir))
    known = pictures(models_dir)
    assert known is not None
    for image, landmarks in zip(known.images, known.landmarks, strict=True):
        found = detector.detect(image)
        assert len(found) == 1
        assert np.abs(found.landmarks[0] - landmarks).max() < 20
    detector.close()


@pytest.mark.parametrize(
    ("name", "backend"), [("blazeface-short", "litert"), ("blazeface-full", "litert"), ("blazeface-short", "onnxruntime")]
)
def test_blazeface_is_the_same_on_other_backends(
    name: str, backend: str, models_dir: Path, engines_dir: Path, images: dict[str, Image]
) -> None:
    reference = load_detector(name, EngineOptions(models_dir, engines_dir, "openvino", "fp32"))
    candidate = load_detector(name, EngineOptions(models_dir, engines_dir, backend, "fp32"))
    assert candidate.engine.backend == backend
    for image in (*images.values(), *(np.ascontiguousarray(image[:, ::-1]) for image in images.values())):
        want, got = reference.detect(image), candidate.detect(image)
        assert len(want) == 1
        np.testing.assert_allclose(got.scores, want.scores, atol=1e-3)
        np.testing.assert_allclose(got.boxes, want.boxes, atol=0.5)
        np.testing.assert_allclose(got.landmarks, want.landmarks, atol=0.5)
    reference.close()
    candidate.close()


def test_a_backend_that_reads_no_onnx_refuses_a_model_of_that_kind(models_dir: Path, engines_dir: Path) -> None:
    with pytest.raises(EngineError, match="litert cannot read onnx"):
        load_detector("centerface", EngineOptions(models_dir, engines_dir, "litert"))


def test_the_command_fetches_lists_and_shows(tmp_path: Path, cache_dir: Path, models_dir: Path) -> None:
    import json

    settings = tmp_path / "almena.yaml"
    settings.write_text(f"state_dir: {tmp_path}\nengines:\n  models_dir: {models_dir}\n")
    runner = CliRunner()
    fetched = runner.invoke(app, ["models", "fetch", "centerface", "astronaut", "--json", "-c", str(settings)])
    assert fetched.exit_code == 0
    assert json.loads(fetched.stdout) == {"centerface": str(models_dir / "centerface.onnx"), "astronaut": str(models_dir / "astronaut.png")}
    listed = runner.invoke(app, ["models", "list", "--json", "-c", str(settings)])
    assert {row["name"]: row["fetched"] for row in json.loads(listed.stdout)}["centerface"]
    assert json.loads(runner.invoke(app, ["models", "show", "sface", "--json"]).stdout)["sha256"] == card("sface").sha256
    assert json.loads(runner.invoke(app, ["models", "passports", "--json", "-c", str(settings)]).stdout) == []
    load_detector("centerface", EngineOptions(models_dir, tmp_path / "engines")).close()
    (passport,) = json.loads(runner.invoke(app, ["models", "passports", "--json", "-c", str(settings)]).stdout)
    assert passport["identity"]["model"] == card("centerface").model_id
    assert runner.invoke(app, ["models", "list", "-c", str(settings)]).exit_code == 0
    assert runner.invoke(app, ["models", "passports", "-c", str(settings)]).exit_code == 0


@pytest.mark.parametrize("arguments", [["fetch"], ["fetch", "centreface"], ["show", "centreface"]])
def test_the_command_tells_wrong_names_with_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["models", *arguments])
    assert result.exit_code == 2
    assert "centerface" in result.output or "--all-default" in result.output
