"""The figures of pairs, against counts by hand, and bad lists."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.verification import PairsError, best_cut, equal_error_rate, figures, read_pairs, roc_auc, verify, wilson
from engines.results import Detections, Embeddings

pytestmark = pytest.mark.unit

DISTANCES = np.array([0.2, 0.3, 0.7, 0.5, 0.8, 0.9])
SAME = np.array([True, True, True, False, False, False])


def test_figures_by_hand() -> None:
    result = figures(DISTANCES, SAME, 0.6, 12, ())
    assert (result.pairs, result.same, result.accuracy) == (6, 3, 4 / 6)
    assert (result.wrong_accepts, result.wrong_rejects) == (1, 1)
    assert result.best_accuracy == 5 / 6
    assert 0.3 < result.best_threshold < 0.5 or 0.7 < result.best_threshold < 0.8
    assert result.roc_auc == pytest.approx(8 / 9)
    assert result.eer == pytest.approx(1 / 3)
    assert result.accuracy_interval[0] < 4 / 6 < result.accuracy_interval[1]
    assert result.roc_auc_interval is not None
    assert result.roc_auc_interval[0] < 8 / 9 <= result.roc_auc_interval[1]


def test_a_pair_without_a_face_counts_as_no() -> None:
    distances = np.array([0.2, np.inf, np.inf, 0.9])
    result = figures(distances, np.array([True, True, False, False]), 0.6, 8, ("a.jpg",))
    assert result.accuracy == 0.75
    assert result.best_accuracy == 0.75
    assert result.images_without_face == ("a.jpg",)
    assert roc_auc(distances, np.array([True, True, False, False])) == pytest.approx((2 + 0.5 + 0) / 4)


def test_equal_distances_are_never_parted_by_a_threshold() -> None:
    assert best_cut(np.array([0.5, 0.5]), np.array([True, False]))[0] == 1


def test_perfect_separation() -> None:
    distances, same = np.array([0.1, 0.2, 0.8, 0.9]), np.array([True, True, False, False])
    assert best_cut(distances, same) == (4, pytest.approx(0.5))
    assert roc_auc(distances, same) == 1.0
    assert equal_error_rate(distances, same) == 0.0


def test_pairs_of_one_kind_have_no_curve() -> None:
    result = figures(np.array([0.1, 0.2]), np.array([True, True]), 0.6, 4, ())
    assert (result.roc_auc, result.eer, result.roc_auc_interval, result.eer_interval) == (None, None, None, None)
    assert result.accuracy == 1.0


def test_wilson_against_published_values() -> None:
    assert wilson(0, 10) == (pytest.approx(0.0, abs=1e-12), pytest.approx(0.2775, abs=1e-4))
    assert wilson(81, 263) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_x,file_y\na.png,b.png\n", r"pairs.csv:1: missing columns: Decision"),
        ("file_x,file_y,Decision\na.png,b.png,Yes\na.png,b.png,perhaps\n", r"pairs.csv:3: Decision must be Yes or No, not 'perhaps'"),
        ("file_x,file_y,Decision\na.png,gone.png,No\n", r"pairs.csv:2: there is no file .*gone.png"),
        ("file_x,file_y,Decision\na.png,b.png\n", r"pairs.csv:2: Decision must be"),
        ("file_x,file_y,Decision\n,b.png,No\n", r"pairs.csv:2: a file name is missing"),
        ("file_x,file_y,Decision\n", r"lists no pairs"),
    ],
)
def test_a_bad_list_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(PairsError, match=message):
        read_pairs(tmp_path / "pairs.csv", tmp_path)


class BrightFaces:
    """Sees a face of 20 and one of 40 pixels in a picture that is not black; a template is the mean colour."""

    def detect(self, image: np.ndarray) -> Detections:
        if image.max() == 0:
            return Detections.empty()
        boxes = np.array([[0, 0, 20, 20], [20, 20, 60, 60]], np.float32)
        landmarks = np.stack([np.full((5, 2), 10, np.float32), np.full((5, 2), 40, np.float32)])
        return Detections(boxes, np.array([0.9, 0.8], np.float32), landmarks)

    def chip(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        x, y = landmarks[0].astype(int)
        return image[y - 2 : y + 2, x - 2 : x + 2]

    def embed(self, chips: np.ndarray) -> Embeddings:
        return Embeddings(chips.reshape(len(chips), -1, 3).mean(axis=1).astype(np.float32) / 255, "bright@0")


def test_the_largest_face_counts_and_a_faceless_picture_stays_in_the_count(tmp_path: Path) -> None:
    def paint(name: str, small: int, large: int) -> None:
        image = np.zeros((80, 80, 3), np.uint8)
        image[:20, :20], image[20:60, 20:60] = small, large
        cv2.imwrite(str(tmp_path / name), image)

    paint("a.png", 10, 200)
    paint("b.png", 250, 205)
    paint("c.png", 10, 20)
    paint("black.png", 0, 0)
    rows = ["a.png,b.png,Yes", "a.png,c.png,no", "a.png,black.png,Yes", "c.png,black.png,No"]
    (tmp_path / "pairs.csv").write_text("file_x,file_y,Decision\n" + "\n".join(rows) + "\n")
    seen: list[tuple[int, int]] = []
    model = BrightFaces()
    result = verify(
        read_pairs(tmp_path / "pairs.csv", tmp_path), tmp_path, model, model, 0.6, lambda done, total: seen.append((done, total))
    )
    assert (result.pairs, result.images, result.accuracy) == (4, 4, 0.75)
    assert result.images_without_face == ("black.png",)
    assert seen[-1] == (4, 4)


def test_a_file_that_is_no_picture_is_told_and_counts_as_one_without_a_face(tmp_path: Path) -> None:
    bright = bytes(cv2.imencode(".png", np.full((80, 80, 3), 200, np.uint8))[1].tobytes())
    for name, data in (("a.png", bright), ("empty.png", b""), ("text.png", b"nothing"), ("torn.png", bright[:60])):
        (tmp_path / name).write_bytes(data)
    rows = ["a.png,a.png,Yes", "a.png,empty.png,Yes", "text.png,a.png,No", "torn.png,torn.png,Yes"]
    (tmp_path / "pairs.csv").write_text("file_x,file_y,Decision\n" + "\n".join(rows) + "\n")
    pairs = read_pairs(tmp_path / "pairs.csv", tmp_path)
    result = verify(pairs, tmp_path, BrightFaces(), BrightFaces(), 0.6)
    assert (result.pairs, result.images, result.accuracy, result.wrong_rejects) == (4, 4, 0.5, 2)
    assert result.images_without_face == ("empty.png", "text.png", "torn.png")
    assert list(result.images_unreadable) == ["empty.png", "text.png", "torn.png"]
    assert result.images_unreadable["empty.png"] == "the file is empty"
    assert "damaged" in result.images_unreadable["text.png"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(PairsError, match=r"a\.png cannot be read: No such file"):
        verify(pairs, tmp_path, BrightFaces(), BrightFaces(), 0.6)
