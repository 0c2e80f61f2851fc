"""Made trajectories: crossing, gap, leaving and coming back, low scores, jitter, uneven frame rates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from agent.vision.tracker.byte import Step, Tracker, TrackerRules

pytestmark = pytest.mark.unit

RULES = TrackerRules(high=0.5, same=0.55, stranger=0.75, settled=0.6)
ANNA, BERT = np.eye(2, 128, dtype=np.float32) * 0.8  # type: ignore[misc]
"""Two faces whose embeddings are 1.13 apart."""


def box(x: float, y: float, size: float = 60.0) -> list[float]:
    return [x - size / 2, y - size / 2, x + size / 2, y + size / 2]


def step(tracker: Tracker, at: float, faces: list[tuple[list[float], float, np.ndarray | None]]) -> Step:
    boxes = np.array([face[0] for face in faces], np.float32).reshape(-1, 4)
    result = tracker.update(at, boxes, np.array([face[1] for face in faces], np.float32), [face[2] for face in faces])
    for owner, (_, _, vector) in zip(result.owners, faces, strict=True):
        if owner is not None and vector is not None and owner.doubt == 0:
            owner.template, owner.views = vector, owner.views + 1
    return result


def walk(tracker: Tracker, times: np.ndarray, path: Callable[[float], list[tuple[list[float], float, np.ndarray | None]]]) -> list[Step]:
    return [step(tracker, float(at), path(float(at))) for at in times]


def ids(steps: list[Step], index: int = 0) -> set[str]:
    return {owner.id for one in steps if len(one.owners) > index and (owner := one.owners[index]) is not None}


def test_a_moving_face_is_one_track_and_confirmed_once() -> None:
    steps = walk(Tracker(RULES), np.arange(0, 3, 1 / 25), lambda at: [(box(100 + 150 * at, 200), 0.9, None)])
    assert len(ids(steps)) == 1
    assert sum(len(one.confirmed) for one in steps) == 1
    assert not any(one.ended for one in steps)


@pytest.mark.parametrize("rate", [3.0, 8.0, 60.0])
def test_the_frame_rate_does_not_matter(rate: float) -> None:
    steps = walk(Tracker(RULES), np.arange(0, 4, 1 / rate), lambda at: [(box(100 + 60 * at, 200 + 20 * at), 0.9, None)])
    assert len(ids(steps)) == 1


def test_uneven_steps_and_jitter() -> None:
    random = np.random.default_rng(7)
    times = np.cumsum(random.choice([1 / 30, 1 / 10, 1 / 3], 80))
    steps = walk(Tracker(RULES), times, lambda at: [(box(*(200 + random.normal(0, 4, 2)), 60 + random.normal(0, 3)), 0.9, None)])
    assert len(ids(steps)) == 1


def test_a_gap_of_a_second_keeps_the_id() -> None:
    tracker = Tracker(RULES)
    before = walk(tracker, np.arange(0, 1, 1 / 25), lambda at: [(box(100 + 40 * at, 200), 0.9, None)])
    during = walk(tracker, np.arange(1, 2, 1 / 25), lambda at: [])
    after = walk(tracker, np.arange(2, 3, 1 / 25), lambda at: [(box(100 + 40 * at, 200), 0.9, None)])
    assert ids(before) == ids(after)
    assert not any(one.ended for one in during + after)


def test_a_long_gap_ends_the_track_once() -> None:
    tracker = Tracker(RULES)
    before = walk(tracker, np.arange(0, 1, 1 / 25), lambda at: [(box(100, 200), 0.9, None)])
    during = walk(tracker, np.arange(1, 5, 1 / 25), lambda at: [])
    after = walk(tracker, np.arange(5, 6, 1 / 25), lambda at: [(box(100, 200), 0.9, None)])
    assert [track.id for one in during for track in one.ended] == list(ids(before))
    assert ids(before).isdisjoint(ids(after))


def test_low_scores_carry_a_track_but_never_start_one() -> None:
    tracker = Tracker(RULES)
    assert ids(walk(tracker, np.arange(0, 1, 0.1), lambda at: [(box(300, 300), 0.3, None)])) == set()
    before = walk(tracker, np.arange(1, 2, 0.1), lambda at: [(box(100, 200), 0.9, None)])
    low = walk(tracker, np.arange(2, 6, 0.1), lambda at: [(box(100, 200), 0.3, None)])
    assert ids(before) == ids(low)
    assert not any(one.ended for one in low)


def test_a_flicker_is_never_confirmed() -> None:
    tracker = Tracker(RULES)
    steps = [step(tracker, at / 10, [(box(100, 100), 0.9, None)] if at % 10 < 2 else []) for at in range(60)]
    assert not any(one.confirmed or one.ended for one in steps)


def test_crossing_with_embeddings_keeps_the_ids() -> None:
    def cross(at: float) -> list[tuple[list[float], float, np.ndarray | None]]:
        faces = [(box(100 + 100 * at, 200), 0.9, ANNA), (box(400 - 100 * at, 205), 0.9, BERT)]
        return faces if abs(at - 1.5) > 0.25 else faces[:1]

    steps = walk(Tracker(RULES), np.arange(0, 3, 1 / 25), cross)
    first, last = steps[5].owners, steps[-1].owners
    assert [track.id for track in first if track] == [track.id for track in last if track]
    assert len({track.id for track in first if track}) == 2


def test_turning_round_in_a_crossing_keeps_the_ids() -> None:
    """Both meet, stand in front of each other and go back: motion alone says that they passed."""

    def meet(at: float) -> list[tuple[list[float], float, np.ndarray | None]]:
        near = 1.5 - abs(at - 1.5)
        faces = [(box(100 + 100 * near, 200), 0.9, ANNA), (box(400 - 100 * near, 200), 0.9, BERT)]
        return faces if abs(at - 1.5) > 0.3 else []

    steps = walk(Tracker(RULES), np.arange(0, 3, 1 / 25), meet)
    assert [track.id for track in steps[5].owners if track] == [track.id for track in steps[-1].owners if track]


def test_coming_back_elsewhere_with_the_same_face_is_the_same_track() -> None:
    tracker = Tracker(RULES)
    before = walk(tracker, np.arange(0, 1, 1 / 25), lambda at: [(box(100, 200), 0.9, ANNA)])
    walk(tracker, np.arange(1, 2, 1 / 25), lambda at: [])
    after = walk(tracker, np.arange(2, 3, 1 / 25), lambda at: [(box(500, 100), 0.9, ANNA)])
    assert [pair[0].id for one in after for pair in one.joined] == list(ids(before))
    assert not any(one.confirmed for one in after)
    assert after[-1].owners[0] is not None
    assert after[-1].owners[0].id in ids(before)


def test_another_face_in_the_place_of_a_lost_one_is_another_track() -> None:
    tracker = Tracker(RULES)
    before = walk(tracker, np.arange(0, 1, 1 / 25), lambda at: [(box(100, 200), 0.9, ANNA)])
    walk(tracker, np.arange(1, 1.5, 1 / 25), lambda at: [])
    after = walk(tracker, np.arange(1.5, 2.5, 1 / 25), lambda at: [(box(100, 200), 0.9, BERT)])
    assert ids(before).isdisjoint(ids(after))


def test_one_stranger_embedding_does_not_split_a_track_but_two_do() -> None:
    tracker = Tracker(RULES)
    before = walk(tracker, np.arange(0, 1, 0.1), lambda at: [(box(100, 200), 0.9, ANNA)])
    once = [step(tracker, 1.0, [(box(100, 200), 0.9, BERT)]), step(tracker, 1.1, [(box(100, 200), 0.9, ANNA)])]
    assert ids(before) == ids(once)
    twice = walk(tracker, np.arange(1.2, 2, 0.1), lambda at: [(box(100, 200), 0.9, BERT)])
    assert twice[-1].owners[0] is not None
    assert twice[-1].owners[0].id not in ids(before)


def test_a_bad_first_view_does_not_hold_a_track_for_good() -> None:
    tracker = Tracker(RULES)
    before = step(tracker, 0.0, [(box(100, 200), 0.9, BERT)])
    soon, later = (walk(tracker, np.arange(first, first + 2) / 10, lambda at: [(box(100, 200), 0.9, ANNA)]) for first in (1, 5))
    assert ids(soon) == ids([before])
    assert later[-1].owners[0] is not None
    assert later[-1].owners[0].id not in ids([before])


@pytest.mark.parametrize(("views", "split"), [(2, False), (12, True)])
def test_a_face_alike_takes_over_a_young_track_but_not_one_that_is_known_well(views: int, split: bool) -> None:
    tracker = Tracker(RULES)
    alike = ANNA + 0.65 * np.eye(128, dtype=np.float32)[5]
    before = walk(tracker, np.arange(views) * 0.1, lambda at: [(box(100, 200), 0.9, ANNA)])
    after = walk(tracker, views * 0.1 + np.arange(5) * 0.1, lambda at: [(box(100, 200), 0.9, alike)])
    assert after[-1].owners[0] is not None
    assert (after[-1].owners[0].id not in ids(before)) == split


def test_flush_returns_confirmed_tracks_and_forgets_everything() -> None:
    tracker = Tracker(RULES)
    walk(tracker, np.arange(0, 1, 0.1), lambda at: [(box(100, 200), 0.9, None)])
    step(tracker, 1.0, [(box(100, 200), 0.9, None), (box(400, 200), 0.9, None)])
    assert len(tracker.flush()) == 1
    assert tracker.tracks == []


def test_ids_differ_between_starts() -> None:
    first, second = (ids(walk(Tracker(RULES), np.arange(0, 1, 0.1), lambda at: [(box(1, 2), 0.9, None)])) for _ in range(2))
    assert first.isdisjoint(second)
