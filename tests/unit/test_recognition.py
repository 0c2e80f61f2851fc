"""Evidence, the open-set decision, and that nothing flips on one frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.vision.recognition import Candidates, Evidence, Judge, OperatingPoint, geometry

pytestmark = pytest.mark.unit

POINT = OperatingPoint.of(verify=0.6, identify=0.55)


def at(distance: float, axis: int = 1) -> np.ndarray:
    """A vector at this distance from the origin, where Anna is."""
    vector = np.zeros(128, np.float32)
    vector[axis] = distance
    return vector


ANNA = Candidates(1, ("p-anna",), ("Anna",), np.zeros(1, np.intp), at(0)[None])
NEAR = Candidates(1, ("p-anna", "p-bert"), ("Anna", "Bert"), np.array([0, 1]), np.stack([at(0), at(0.62)]))
FAR = Candidates(1, ("p-anna", "p-bert"), ("Anna", "Bert"), np.array([0, 1]), np.stack([at(0), at(1.2)]))


def judged(candidates: Candidates, *views: tuple[float, float], judge: Judge | None = None) -> Judge:
    """After (distance, quality) views."""
    judge = judge or Judge(POINT)
    evidence = Evidence()
    for distance, quality in views:
        evidence.add(at(distance), quality)
        judge.assess(evidence, candidates)
    return judge


def test_three_agreeing_views_make_it_known() -> None:
    assert judged(FAR, (0.4, 0.3), (0.4, 0.3)).decision.kind == "undecided"
    decision = judged(FAR, (0.4, 0.3), (0.4, 0.3), (0.4, 0.3)).decision
    assert (decision.kind, decision.identity, decision.name) == ("known", "p-anna", "Anna")
    assert decision.distance == pytest.approx(0.4, abs=1e-3)
    assert decision.second_best == pytest.approx(0.8, abs=1e-3)


def test_one_view_is_enough_only_if_very_good_and_far_from_the_border() -> None:
    assert judged(ANNA, (0.4, 0.9)).decision.kind == "known"
    assert judged(ANNA, (0.5, 0.9)).decision.kind == "undecided"
    assert judged(ANNA, (0.4, 0.4)).decision.kind == "undecided"
    assert judged(ANNA, (0.58, 0.9)).decision.kind == "undecided"
    assert judged(ANNA, (0.7, 0.9)).decision.kind == "unknown"


def test_beyond_the_operating_point_is_unknown_and_keeps_the_figures() -> None:
    decision = judged(ANNA, *[(0.59, 0.3)] * 3).decision
    assert (decision.kind, decision.identity, decision.name) == ("unknown", None, None)
    assert decision.distance == pytest.approx(0.59, abs=1e-3)


def test_two_identities_too_close_to_each_other_give_no_name() -> None:
    assert judged(NEAR, *[(0.30, 0.5)] * 5).decision.kind == "undecided"
    assert judged(NEAR, *[(0.20, 0.5)] * 5).decision.name == "Anna"


def test_near_the_border_the_second_best_must_be_further_behind() -> None:
    candidates = Candidates(1, ("p-anna", "p-bert"), ("Anna", "Bert"), np.array([0, 1]), np.stack([at(0), at(1.14)]))
    assert judged(candidates, *[(0.54, 0.5)] * 8).decision.kind == "undecided"
    assert judged(candidates, *[(0.50, 0.5)] * 8).decision.name == "Anna"


@pytest.mark.parametrize(("distance", "views"), [(0.44, 3), (0.50, 6), (0.57, 8)])
def test_the_nearer_to_the_border_the_more_views_a_name_needs(distance: float, views: int) -> None:
    assert judged(ANNA, *[(distance, 0.5)] * (views - 1)).decision.kind == "undecided"
    assert judged(ANNA, *[(distance, 0.5)] * views).decision.name == "Anna"


def test_poor_views_name_only_whom_they_show_clearly() -> None:
    assert judged(FAR, *[(0.5, 0.05)] * 5).decision.kind == "undecided"
    assert judged(FAR, *[(0.58, 0.05)] * 5).decision.kind == "undecided"
    assert judged(FAR, *[(0.4, 0.05)] * 5).decision.name == "Anna"
    assert judged(Candidates.none(), *[(0.4, 0.05)] * 5).decision.kind == "undecided"


def test_an_empty_gallery_knows_nobody() -> None:
    decision = judged(Candidates.none(), *[(0.1, 0.5)] * 3).decision
    assert (decision.kind, decision.distance) == ("unknown", None)


def test_a_known_face_does_not_turn_on_one_or_two_assessments() -> None:
    judge = judged(FAR, *[(0.3, 0.5)] * 3)
    other = Evidence()
    for _ in range(3):
        other.add(at(1.2), 0.5)
    assert not judge.assess(other, FAR)
    assert not judge.assess(other, FAR)
    assert judge.decision.name == "Anna"
    assert judge.assess(other, FAR)
    assert judge.decision.name == "Bert"


def test_assessments_against_must_come_in_a_row() -> None:
    judge = judged(FAR, *[(0.3, 0.5)] * 3)
    anna, stranger = Evidence(), Evidence()
    for _ in range(3):
        anna.add(at(0.3), 0.5)
        stranger.add(at(0.7, axis=2), 0.5)
    for _ in range(4):
        judge.assess(stranger, FAR)
        judge.assess(stranger, FAR)
        judge.assess(anna, FAR)
        assert judge.decision.name == "Anna"


def test_an_undecided_look_and_another_answer_break_the_row() -> None:
    judge = judged(FAR, *[(0.3, 0.5)] * 3)
    bert, stranger, nothing = Evidence(), Evidence(), Evidence()
    nothing.add(at(0.5), 0.3)
    for _ in range(3):
        bert.add(at(1.2), 0.5)
        stranger.add(at(0.7, axis=2), 0.5)
    for look in (bert, bert, nothing, bert, bert, stranger, stranger, bert, bert):
        assert not judge.assess(look, FAR)
        assert judge.decision.name == "Anna"
    assert judge.assess(bert, FAR)
    assert judge.decision.name == "Bert"


def test_an_erased_identity_is_dropped_at_once() -> None:
    judge = judged(FAR, *[(0.3, 0.5)] * 3)
    evidence = Evidence()
    for _ in range(3):
        evidence.add(at(0.3), 0.5)
    assert judge.assess(evidence, Candidates.none(2))
    assert judge.decision.kind == "unknown"
    assert judge.decision.name is None


def test_a_new_name_is_a_change() -> None:
    judge = judged(ANNA, *[(0.3, 0.5)] * 3)
    evidence = Evidence()
    for _ in range(3):
        evidence.add(at(0.3), 0.5)
    assert judge.assess(evidence, Candidates(2, ("p-anna",), ("Anne",), ANNA.owners, ANNA.matrix))
    assert judge.decision.name == "Anne"


def test_the_template_weighs_by_quality_and_leaves_strangers_out() -> None:
    evidence = Evidence()
    evidence.add(at(0.1), 0.9)
    evidence.add(at(0.3), 0.3)
    evidence.add(at(0.2), 0.3)
    evidence.add(at(2.0), 0.2)
    template, views = evidence.template(POINT.stranger)
    assert views == 3
    assert template[1] == pytest.approx((0.9 * 0.1 + 0.3 * 0.3 + 0.3 * 0.2) / 1.5, abs=0.01)


def test_evidence_keeps_the_best_views() -> None:
    evidence = Evidence(limit=3)
    for quality in (0.1, 0.9, 0.2, 0.8, 0.7):
        evidence.add(at(quality), quality)
    assert evidence.seen == 5
    assert evidence.template(POINT.stranger)[0][1] == pytest.approx((0.81 + 0.64 + 0.49) / 2.4, abs=0.01)


def test_each_identity_counts_with_its_nearest_picture() -> None:
    candidates = Candidates(1, ("p-a", "p-b"), ("A", "B"), np.array([1, 0, 0]), np.stack([at(0.5), at(0.9), at(0.2)]))
    ranking = candidates.rank(at(0.0))
    assert (ranking.name, ranking.distance, ranking.second_best) == ("A", pytest.approx(0.2), pytest.approx(0.5))


def test_small_and_turned_faces_are_poor_views() -> None:
    frontal = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)
    turned = frontal.copy()
    turned[2, 0] = 66
    boxes = np.array([[10, 10, 110, 130], [10, 10, 110, 130], [10, 10, 40, 46]], np.float32)
    best, sideways, small = geometry(boxes, np.stack([frontal, turned, frontal * 0.3]), 640, 360)
    assert best == pytest.approx(1.0)
    assert sideways < 0.3
    assert small == pytest.approx(0.3)


@pytest.mark.parametrize("box", [(0, 10, 100, 130), (10, 0, 110, 120), (540, 10, 640, 130), (10, 240, 110, 360)])
def test_a_face_cut_off_by_the_edge_is_a_poor_view(box: tuple[int, int, int, int]) -> None:
    frontal = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], np.float32)
    assert geometry(np.array([box], np.float32), frontal[None], 640, 360)[0] == pytest.approx(0.15)


def test_a_face_that_is_half_beside_the_picture_is_a_poor_view() -> None:
    marks = np.array([[605, 150], [620, 150], [612, 175], [606, 200], [619, 200]], np.float32)
    beside, inside = np.array([595, 116, 633, 224], np.float32), np.array([295, 116, 333, 224], np.float32)
    poor, narrow = geometry(np.stack([beside, inside]), np.stack([marks, marks - [300, 0]]).astype(np.float32), 640, 360)
    assert poor == pytest.approx(0.15 * narrow)


def test_the_limit_is_tighter_the_more_are_enrolled() -> None:
    limits = [POINT.limit(enrolled) for enrolled in (0, 1, 2, 20, 400)]
    assert limits == pytest.approx([0.58, 0.58, 0.573, 0.55, 0.52], abs=1e-3)
    assert replace(POINT, slack=0.0).limit(1) == POINT.identify
