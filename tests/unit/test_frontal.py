"""The check by pixels, on pictures that the code draws. What it does to real ones is in docs/studies.md."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from agent.vision.frontal import Frontal, features, frontal
from tests.fakes.radiograph import chest
from training.frontal import fitted

pytestmark = pytest.mark.unit


def test_the_shipped_one_knows_a_drawn_chest_from_what_is_none() -> None:
    found, picture = frontal(), chest()
    assert found.objection(picture) == ""
    large = cv2.resize(picture, (2400, 2560))
    assert np.abs(features(large) - features(picture)).max() < 0.1
    assert found.objection(large) == ""
    assert "unlike" in found.objection(255 - picture)
    assert "unlike" in found.objection(np.ascontiguousarray(picture[::-1]))
    page = np.full((400, 300), 255, np.uint8)
    for row in range(20, 380, 24):
        cv2.putText(page, "a page of text, no chest", (10, row), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 0, 2)
    assert "unlike" in found.objection(page)
    assert found.objection(np.full((400, 300), 90, np.uint8)) == "it is all of one shade"
    assert "longer" in found.objection(np.resize(picture, (900, 300)))


def test_a_fit_refuses_about_the_share_that_it_is_asked_for() -> None:
    pictures = [chest(seed) for seed in range(40)]
    found, apart = fitted(pictures, np.array([f"p{seed // 2}" for seed in range(40)]))
    assert isinstance(found, Frontal)
    assert 0 < np.mean(apart > found.limit) <= 0.03
    assert found.distances(np.stack([features(255 - picture) for picture in pictures])).min() > found.limit
