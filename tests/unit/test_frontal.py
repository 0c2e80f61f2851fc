"""The check by pixels, on pictures that the code draws. What it does to real ones is in docs/studies.md."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from agent.vision.frontal import Frontal, features, frontal
from training.frontal import fitted

pytestmark = pytest.mark.unit


def chest(seed: int = 0) -> NDArray[np.uint8]:
    """Two dark lungs, a bright middle, shoulders and a diaphragm, a little different each time."""
    random = np.random.default_rng(seed)
    canvas = np.full((320, 300), 150.0, np.float32)
    canvas[:, :25] = canvas[:, 275:] = 60
    for middle in (95, 205):
        place = int(middle + random.integers(-8, 9)), int(160 + random.integers(-10, 11))
        cv2.ellipse(canvas, place, (int(random.integers(42, 52)), int(random.integers(95, 115))), 0, 0, 360, 70.0, -1)
    cv2.rectangle(canvas, (138, 0), (162, 320), 210.0, -1)
    cv2.ellipse(canvas, (170, 210), (45, 55), 30, 0, 360, 200.0, -1)
    canvas[275:] = 215
    return np.clip(cv2.GaussianBlur(canvas, (0, 0), 9) + random.normal(0, 4, canvas.shape), 0, 255).astype(np.uint8)


def test_the_shipped_one_knows_a_drawn_chest_from_what_is_none() -> None:
    found, picture = frontal(), chest()
    assert found.objection(picture) == ""
    assert "unlike" in found.objection(255 - picture)
    assert "unlike" in found.objection(np.ascontiguousarray(picture[::-1]))
    page = np.full((400, 300), 255, np.uint8)
    for row in range(20, 380, 24):
        cv2.putText(page, "a page of text, no chest", (10, row), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 0, 2)
    assert "unlike" in found.objection(page)
    assert found.objection(np.full((400, 300), 90, np.uint8)) == "it is all of one shade"
    assert "longer" in found.objection(np.resize(picture, (900, 300)))


def test_a_fit_refuses_about_the_share_that_it_is_asked_for() -> None:
    pictures = [chest(seed) for seed in range(120)]
    found, apart = fitted(pictures, np.array([f"p{seed // 2}" for seed in range(120)]))
    assert isinstance(found, Frontal)
    assert 0 < np.mean(apart > found.limit) <= 0.03
    assert found.distances(np.stack([features(255 - picture) for picture in pictures])).min() > found.limit
