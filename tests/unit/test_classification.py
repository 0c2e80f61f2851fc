"""Figures of classifiers, on answers that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.commands.evaluate_classify import _answers, _decisions
from calibration.classification import calibration_error, decided, fitted_temperature, operating_point, report, softmax
from calibration.plot import plot_classifier
from engines.card import card
from tests.fakes.mapped_model import CHEST, save_model, write_card

pytestmark = pytest.mark.unit

LABELS = ("covid", "normal", "pneumonia")
TRUTH = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2], np.int64)
ANSWERS = [0, 0, 1, 1, 1, 1, 2, 2, 2, 0]


def said(sure: float = 0.8) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rows = np.full((len(ANSWERS), 3), (1 - sure) / 2)
    rows[np.arange(len(ANSWERS)), ANSWERS] = sure
    return rows


def test_counts_stand_where_their_axes_say() -> None:
    found = report(said(), TRUTH, LABELS, "covid")
    assert (found.confusion.rows, found.confusion.columns) == ("truth", "answer")
    assert found.confusion.counts == ((2, 1, 0), (0, 3, 1), (1, 0, 2))
    assert (found.accuracy.value, found.accuracy.right, found.accuracy.count) == (0.7, 7, 10)
    assert found.classes["covid"].precision.value == pytest.approx(2 / 3)
    assert found.classes["normal"].recall.value == pytest.approx(3 / 4)
    assert found.classes["pneumonia"].f1.value == pytest.approx(2 / 3)


def test_sensitivity_is_of_the_sick_and_specificity_of_the_others() -> None:
    found = report(said(), TRUTH, LABELS, "covid").positive
    assert found is not None
    assert (found.true_positive, found.false_negative, found.false_positive, found.true_negative) == (2, 1, 1, 6)
    assert (found.sensitivity.value, found.specificity.value) == (pytest.approx(2 / 3), pytest.approx(6 / 7))
    everything = report(said(), TRUTH, LABELS, "covid", threshold=0.05).positive
    assert everything is not None
    assert (everything.sensitivity.value, everything.specificity.value) == (1.0, 0.0)


def test_the_agent_decides_by_the_threshold_and_abstains_near_it(tmp_path: Path) -> None:
    judged = card(str(write_card(save_model(tmp_path / "chest.onnx", 64, (1, 2, 3), (0, 0, 0)), CHEST, 64, 0.3)))
    rows = np.array([[0.36, 0.59, 0.05], [0.32, 0.60, 0.08], [0.10, 0.47, 0.43], [0.05, 0.90, 0.05], [0.02, 0.03, 0.95], [0.2, 0.7, 0.1]])
    truth = np.array([0, 0, 2, 1, 1, 0])
    assert report(rows, truth, CHEST).accuracy.right == 1, "by the likeliest class"
    plain, reasons = _answers(judged, rows, [""] * 6, "classification")
    assert (plain, reasons) == (["covid", "covid", "normal", "normal", "pneumonia", "normal"], [""] * 6)
    answers, reasons = _answers(judged, rows, ["", "", "", "", "", "pixels"], "study")
    assert answers == ["covid", "", "", "normal", "pneumonia", ""]
    assert reasons == ["", "margin", "margin", "", "", "pixels"]
    point = decided("study", answers, reasons, truth, CHEST, "covid", 0.3)
    assert point.abstained == {"margin": 2, "pixels": 1}
    assert ((point.answered.right, point.accuracy.right, point.accuracy.count), point.right.count) == ((3, 2, 3), 6)
    assert point.confusion.labels[-1] == "no answer"
    assert point.confusion.counts == ((1, 0, 0, 2), (0, 1, 1, 0), (0, 0, 0, 1))
    assert point.sensitivity is not None
    assert point.specificity is not None
    assert (point.sensitivity.right, point.sensitivity.count) == (1, 3), "no answer to a sick one is a miss"
    assert (point.specificity.right, point.specificity.count) == (3, 3)
    assert "no answer: 2 by margin, 1 by pixels" in _decisions(point)


def test_below_a_threshold_near_nothing_there_are_answers_too(tmp_path: Path) -> None:
    judged = card(str(write_card(save_model(tmp_path / "chest.onnx", 64, (1, 2, 3), (0, 0, 0)), CHEST, 64, 0.02)))
    rows = np.array([[0.001, 0.149, 0.85], [0.019, 0.90, 0.081], [0.021, 0.90, 0.079], [0.2, 0.7, 0.1]])
    answers, reasons = _answers(judged, rows, [""] * 4, "study")
    assert (answers, reasons) == (["pneumonia", "", "", "covid"], ["", "margin", "margin", ""])


def test_two_classes_alone_leave_out_the_third() -> None:
    found = report(said(), TRUTH, LABELS)
    assert found.positive is None
    pair = found.pairs["covid, normal"]
    assert (pair.right, pair.count) == (5, 7)  # of a tie, as in the normal one that is called pneumonia, the first is taken
    low, high = pair.interval or (0, 0)
    assert low < 5 / 7 < high


def test_a_class_that_is_never_named_has_no_precision() -> None:
    found = report(np.tile([0.9, 0.1], (4, 1)), np.array([0, 0, 0, 1]), ("a", "b"), "b")
    assert found.classes["b"].precision.value is None
    assert found.classes["b"].recall.value == 0.0


def test_calibration_error_by_hand() -> None:
    assert calibration_error(said(0.8), TRUTH) == pytest.approx(0.1)  # says 0.8, is right in 0.7
    assert calibration_error(said(0.7), TRUTH) == pytest.approx(0.0)


def test_the_temperature_undoes_what_made_the_logits_too_sure() -> None:
    random = np.random.default_rng(3)
    honest = random.normal(0, 1.5, (4000, 3))
    truth = np.array([random.choice(3, p=row) for row in softmax(honest)], np.int64)
    assert fitted_temperature(3 * honest, truth) == pytest.approx(3.0, rel=0.08)
    assert calibration_error(softmax(3 * honest, 3.0), truth) < calibration_error(softmax(3 * honest), truth) / 3


def test_the_operating_point_is_the_highest_that_reaches_the_sensitivity() -> None:
    scores = np.array([0.9, 0.8, 0.6, 0.3, 0.7, 0.5, 0.2, 0.1])
    positive = np.array([True, True, True, True, False, False, False, False])
    assert operating_point(scores, positive, 0.75) == pytest.approx(0.55)
    assert operating_point(scores, positive, 0.95) == pytest.approx(0.25)
    assert (scores[positive] >= operating_point(scores, positive, 0.5)).sum() == 2


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_figures_are_drawn(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"figures{suffix}"
    plot_classifier(report(said(), TRUTH, LABELS, "covid"), said(), TRUTH, path)
    assert path.read_bytes()[:5] == (b"\x89PNG\r" if suffix == ".png" else b"<?xml")
