"""Heads in closed form, against what theory says of normal distributions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.discriminant import fitted
from training.state import State, merged

pytestmark = pytest.mark.unit


def normals(seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Two classes of 6,000 and 2,000 rows, each (2,), that differ by (2, 0) and share a covariance, and a column that never changes."""
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(2), (6000, 2000))
    rows = random.multivariate_normal((0, 0), ((1, 0.5), (0.5, 2)), len(truth)) + np.outer(truth, (2, 0))
    return np.column_stack([rows * (1, 100), np.full(len(truth), 7.0)]).astype(np.float32), truth


@pytest.mark.parametrize(("evenness", "lift"), [(0.0, np.log(1 / 3)), (1.0, 0.0)])
def test_logits_are_the_log_probabilities_of_the_classes(evenness: float, lift: float) -> None:
    rows, truth = normals()
    weights, biases = fitted(rows, truth, 2, 1e-9, evenness)
    slope = np.linalg.solve(((1, 0.5), (0.5, 2)), (2, 0))  # Fisher's discriminant of the distributions that the rows were drawn from
    assert (weights[:2, 1] - weights[:2, 0]) * (1, 100) == pytest.approx(slope, rel=0.06)
    assert weights[2].tolist() == [0, 0]
    assert biases[1] - biases[0] == pytest.approx(lift - slope[0] * 2 / 2, abs=0.1)


def test_shrunk_to_a_ball_it_compares_standardised_distances() -> None:
    rows, truth = normals()
    weights, _ = fitted(rows, truth, 2, 1.0, 1.0)
    difference = rows[truth == 1, :2].mean(0) - rows[truth == 0, :2].mean(0)
    scaled = (weights[:2, 1] - weights[:2, 0]) * rows[:, :2].std(0)
    expected = difference / rows[:, :2].std(0)
    assert scaled / np.linalg.norm(scaled) == pytest.approx(expected / np.linalg.norm(expected), abs=1e-3)


def test_merged_heads_answer_with_the_mean() -> None:
    arrays = [[np.full(3, float(place)), np.full((2, 2), 5.0)] for place in (1, 3)]
    middle, same = merged([State([], one, one) for one in arrays])
    assert (middle.tolist(), same.tolist()) == ([2, 2, 2], [[5, 5], [5, 5]])
