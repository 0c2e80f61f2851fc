"""Labelled sets, their metrics, and what the gate lets through."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from calibration.errors import LabelsError
from calibration.gate import Gate
from calibration.labels import average_precision, read_boxes, read_classes, read_labelled_pairs
from engines.backends.base import IMAGE
from engines.base import Engine, TensorSpec
from engines.card import Allowance, card
from engines.decoders.centerface import CenterFaceDecoder, CenterFaceParams
from engines.decoders.classification import ClassificationDecoder, ClassificationParams
from engines.decoders.embedding import EmbeddingDecoder, EmbeddingParams
from engines.familiar import familiar
from engines.preprocess import Image
from tests.fakes.classifier import save_card

pytestmark = pytest.mark.unit
CLASSES = ClassificationDecoder(ClassificationParams(output="y", activation="none"))
TEMPLATES = EmbeddingDecoder(EmbeddingParams(output="y", normalise=False))


class Scripted(Engine):
    """Answers by a function of the pictures."""

    name, backend, precision, parallel = "scripted", "none", "fp32", 1

    def __init__(self, shape: tuple[int, ...], answer: Callable[[np.ndarray[Any, Any]], Mapping[str, Any]]) -> None:
        self.inputs = (TensorSpec(IMAGE, "uint8", shape),)
        self.outputs = ()
        self._answer = answer

    def _read(self, tensors: Mapping[str, Any], reader: Any) -> Any:
        return reader(self._answer(tensors[IMAGE]))


def write(folder: Path, pictures: dict[str, Image]) -> None:
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), picture)


def brightness(threshold: float) -> Scripted:
    """`standing` where a picture is brighter than `threshold`."""
    return Scripted(
        (1, 32, 32, 1),
        lambda rows: {"y": np.stack([rows.mean((1, 2, 3)) <= threshold, rows.mean((1, 2, 3)) > threshold], 1).astype(np.float32)},
    )


def light(value: int) -> Image:
    return np.full((20, 20, 3), value, np.uint8)


def test_classes_are_a_folder_each(tmp_path: Path) -> None:
    model = save_card(tmp_path)
    write(
        tmp_path / "set", {"lying/a.png": light(10), "lying/b.png": light(90), "standing/c.png": light(140), "standing/d.png": light(200)}
    )
    labelled = read_classes(model, CLASSES, tmp_path / "set")
    assert labelled.measure(brightness(100)) == {"accuracy": 1.0}
    assert labelled.measure(brightness(150)) == {"accuracy": 0.75}
    (tmp_path / "set" / "flying").mkdir()
    with pytest.raises(LabelsError, match="'flying' is no label of two-classes; they are lying, standing"):
        read_classes(model, CLASSES, tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabelsError, match="holds no picture"):
        read_classes(model, CLASSES, tmp_path / "empty")


def test_a_broken_picture_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "lying").mkdir()
    (tmp_path / "lying" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(LabelsError, match=r"a\.jpg is not a picture"):
        read_classes(save_card(tmp_path), CLASSES, tmp_path)


def boxes(*rows: tuple[float, float, float, float]) -> Any:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_average_precision_of_known_cases() -> None:
    one, other = (0, 0, 10, 10), (50, 50, 60, 60)
    score = lambda *values: np.array(values, np.float32)  # noqa: E731
    assert average_precision([(boxes(one), score(0.9))], [boxes(one)]) == 1.0
    assert average_precision([(boxes(), score())], [boxes(one)]) == 0.0
    assert average_precision([(boxes(), score())], [boxes()]) == 1.0
    assert average_precision([(boxes(one), score(0.9))], [boxes()]) == 0.0
    assert average_precision([(boxes(one, one), score(0.9, 0.8))], [boxes(one)]) == 1.0
    assert average_precision([(boxes(other, one), score(0.9, 0.8))], [boxes(one)]) == 0.5
    assert average_precision([(boxes(one), score(0.9))], [boxes(one, other)]) == 0.5
    found = [(boxes(one), score(0.9)), (boxes(one, other), score(0.8, 0.7))]
    assert average_precision(found, [boxes(one), boxes(other)]) == pytest.approx(0.5 + 0.5 * 2 / 3)


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_boxes_are_read_from_json_and_csv(tmp_path: Path, kind: str) -> None:
    write(tmp_path, {"a.png": np.zeros((768, 1280, 3), np.uint8), "b.png": np.zeros((100, 100, 3), np.uint8)})
    path = tmp_path / f"labels.{kind}"
    if kind == "json":
        path.write_text(json.dumps({"b.png": [], "a.png": [[20, 40, 60, 80]]}))
    else:
        path.write_text("file,x1,y1,x2,y2\nb.png,,,,\na.png,20,40,60,80\n")
    params = CenterFaceParams(**card("centerface").decoder.params)
    labelled = read_boxes(card("centerface"), CenterFaceDecoder(params, 384, 640), path)
    assert [one.tolist() for one in labelled.truth] == [[], [[10, 20, 30, 40]]]

    def answer(rows: Any) -> Any:
        found = {name: np.zeros((1, count, 96, 160), np.float32) for name, count in (("537", 1), ("538", 2), ("539", 2), ("540", 10))}
        found["537"][0, 0, 7, 5], found["538"][0, :, 7, 5] = 0.9, np.log(5)
        found["539"][0, :, 7, 5] = (0.0, -0.5)
        return found

    assert labelled.measure(Scripted((1, 384, 640, 3), answer))["average_precision"] == 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a.png": [[1, 2, 3]]}', "must be four numbers"),
        ('{"a.png": null}', 'must be {"file"'),
        ('{"a.png": [[5, 2, 3, 4]]}', "x1 < x2"),
        ("[]", "must be"),
        ("{", "cannot be read"),
        ('{"missing.png": []}', "is not a picture"),
        ("{}", "lists no picture"),
    ],
)
def test_bad_boxes_are_errors(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(LabelsError, match=message):
        read_boxes(card("centerface"), None, tmp_path / "labels.json")  # type: ignore[arg-type]


def test_pairs_are_judged_at_the_operating_point(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": light(10), "b.png": light(20), "c.png": light(200), "nobody.png": light(0)})
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        rows = [("a.png", "b.png", "Yes"), ("a.png", "c.png", "No"), ("b.png", "c.png", "No"), ("a.png", "nobody.png", "Yes")]
        csv.writer(file).writerows([("file_x", "file_y", "Decision"), *rows])
    labelled = read_labelled_pairs(
        card("dlib-resnet"), TEMPLATES, tmp_path / "pairs.csv", lambda picture: picture if picture.any() else None
    )
    engine = Scripted((1, 20, 20, 3), lambda rows: {"y": rows.mean((1, 2, 3))[:, None].astype(np.float32) / 20})
    assert labelled.measure(engine) == {"accuracy": 0.75, "eer": 0.5}
    with pytest.raises(LabelsError, match="no face was found in any of its 4 pictures"):
        read_labelled_pairs(card("dlib-resnet"), TEMPLATES, tmp_path / "pairs.csv", lambda picture: None)


def shifted(by: float) -> Scripted:
    return Scripted((1, 32, 32, 1), lambda rows: {"y": np.tile(np.float32([0.4 + by, 0.6 - by]), (len(rows), 1))})


@pytest.mark.parametrize(("by", "why"), [(0.01, ""), (0.06, "probabilities differ by 0.0600"), (0.2, "probabilities differ")])
def test_without_labels_the_outputs_decide(tmp_path: Path, by: float, why: str) -> None:
    held_out = [np.zeros((32, 32, 1), np.uint8)] * 5
    verdict = Gate(save_card(tmp_path), CLASSES, held_out, None, None).judge(shifted(0.0), shifted(by))
    assert verdict.why.startswith(why)
    assert bool(verdict.why) == bool(why)
    assert verdict.parity.pictures == "samples"


@pytest.mark.parametrize(("noise", "why"), [(0.05, ""), (0.5, "the outputs are 1"), (0.0, "")])
def test_the_noise_of_raw_outputs_decides_where_the_card_limits_that(tmp_path: Path, noise: float, why: str) -> None:
    model = save_card(tmp_path)
    limited = model.model_copy(update={"allowance": Allowance(sqnr_db=20.0, agreement=0.9)})
    held_out = [np.full((32, 32, 1), value, np.uint8) for value in range(0, 200, 20)]

    def engine(off: float) -> Scripted:
        """Logits vary from picture to picture by about 3 around 1000, which all pictures share."""
        return Scripted((1, 32, 32, 1), lambda rows: {"y": (1000 + rows.mean((1, 2, 3))[:, None] / 20 * [1, -1] + off).astype(np.float32)})

    verdict = Gate(limited, CLASSES, held_out, None, None).judge(engine(0.0), engine(noise))
    assert verdict.why.startswith(why)
    assert bool(verdict.why) == bool(why)


def one_face(height: float, faces: int = 1) -> Scripted:
    """A face of 40 by `height` pixels, or none where `faces` is 0."""

    def answer(rows: Any) -> Any:
        found = {name: np.zeros((1, count, 96, 160), np.float32) for name, count in (("537", 1), ("538", 2), ("539", 2), ("540", 10))}
        found["537"][0, 0, 40, 60] = 0.9 * faces
        found["538"][0, :, 40, 60] = np.log(height / 4), np.log(10)
        return found

    return Scripted((1, 384, 640, 3), answer)


@pytest.mark.parametrize(
    ("candidate", "allowance", "why"),
    [
        (one_face(40.4), {}, ""),
        (one_face(41.2), {}, "boxes overlap by 0.9709 on average, required are 0.98"),
        (one_face(40, 0), {"score": 1.0, "overlap": 0.0, "mean_overlap": 0.0}, "0 faces are found where FP32 finds 5"),
    ],
)
def test_boxes_must_overlap_on_average_and_faces_be_as_many(candidate: Scripted, allowance: dict[str, float], why: str) -> None:
    model = card("centerface")
    model = model.model_copy(update={"allowance": model.allowance.model_copy(update=allowance)})
    decoder = CenterFaceDecoder(CenterFaceParams(**model.decoder.params), 384, 640)
    verdict = Gate(model, decoder, [np.zeros((384, 640, 3), np.uint8)] * 5, None, None).judge(one_face(40), candidate)
    assert verdict.why.startswith(why)
    assert bool(verdict.why) == bool(why)
    assert verdict.parity.faces == 5


def test_with_labels_their_metric_decides(tmp_path: Path) -> None:
    model = save_card(tmp_path)
    write(tmp_path / "set", {f"lying/{value}.png": light(value) for value in (10, 40, 90)} | {"standing/c.png": light(140)})
    labelled = read_classes(model, CLASSES, tmp_path / "set")
    gate = Gate(model, CLASSES, labelled.pictures, labelled, None)
    assert gate.judge(brightness(100), brightness(110)).why == ""
    refused = gate.judge(brightness(100), brightness(50))
    assert refused.why == "accuracy is 0.7500, at FP32 1.0000: 0.2500 worse, allowed are 0.01"
    (accuracy,) = refused.accuracy
    assert (accuracy.reference, accuracy.candidate, accuracy.count) == (1.0, 0.75, 4)


def test_the_worst_of_twenty_templates_does_not_decide(tmp_path: Path) -> None:
    chips = [np.full((150, 150, 3), value, np.uint8) for value in range(40)]

    def embedder(off: int) -> Scripted:
        return Scripted(
            (1, 150, 150, 3), lambda rows: {"y": np.array([[row.mean() + (row.mean() < off)] for row in rows], np.float32)}
        )  # fmt: skip

    gate = Gate(card("dlib-resnet"), TEMPLATES, chips, None, None)
    assert gate.judge(embedder(0), embedder(2)).why == ""
    assert gate.judge(embedder(0), embedder(4)).why.startswith("templates are ")


def test_what_a_classifier_gives_beside_its_answers_is_compared_too() -> None:
    """The answers are the same each time; features that are far from all that is known, or a map that shows another place, are not."""
    model = card("chest-xray")
    params = ClassificationParams(output="y", activation="none", maps="m", features="f")
    known = familiar(model)
    assert known is not None
    chance = np.random.default_rng(3)
    maps = chance.normal(size=(1, len(model.labels), 7, 7)).astype(np.float32)

    def engine(feature: Any, seen: Any) -> Scripted:
        answer = np.eye(len(model.labels), dtype=np.float32)[:1]
        return Scripted((1, 32, 32, 1), lambda _: {"y": answer, "m": seen, "f": feature})

    usual = known.planes[0].mean[None]
    gate = Gate(model, ClassificationDecoder(params), [np.zeros((32, 32, 1), np.uint8)] * 4, None, None)
    reference = engine(usual, maps)
    assert gate.judge(reference, engine(usual + 1e-3, maps + 0.01 * chance.normal(size=maps.shape))).why == ""
    assert "0.000 count as familiar or not as at FP32" in gate.judge(reference, engine(usual + 50, maps)).why
    assert "correlate with FP32's by -1.000, at least 0.9" in gate.judge(reference, engine(usual, -maps)).why
    assert "by 0.000" in gate.judge(reference, engine(usual, np.zeros_like(maps))).why
