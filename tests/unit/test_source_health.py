"""Frozen and covered pictures, rates, quality: on pictures that are made here."""

from __future__ import annotations

import numpy as np
import pytest

from agent.datatypes import Image
from agent.vision.health import HealthSettings, LastHour, PictureHealth, Rate, quality, sample, still, uniform

pytestmark = pytest.mark.unit

SETTINGS = HealthSettings(frozen_after_s=10, covered_after_s=3, check_period_s=0.2)
RATE = 25


def scene(height: int = 360, width: int = 640) -> Image:
    """Smooth structure with edges, like a room."""
    rows, columns = np.mgrid[0:height, 0:width]
    grey = 110 + 60 * np.sin(columns / 60) * np.cos(rows / 45) + 40 * ((columns // 80 + rows // 60) % 2)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def noisy(image: Image, sigma: float, seed: int) -> Image:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def verdict(pictures: list[Image], seconds: float) -> str:
    """What PictureHealth says after `pictures` were shown in a circle for `seconds`."""
    health = PictureHealth(SETTINGS)
    said = ""
    for number in range(int(seconds * RATE)):
        said = health.judge(pictures[number % len(pictures)], number / RATE)
    return said


def test_identical_pictures_are_frozen_but_not_before_their_time() -> None:
    assert verdict([scene()], 9.5) == ""
    assert verdict([scene()], 11) == "frozen"


@pytest.mark.parametrize("sigma", [0.6, 1.0, 3.0])
def test_a_static_scene_with_sensor_noise_is_alive(sigma: float) -> None:
    assert verdict([noisy(scene(), sigma, seed) for seed in range(7)], 30) == ""


def test_what_an_encoder_does_to_a_frozen_picture_is_still_frozen() -> None:
    picture = scene()
    again = picture.copy()
    random = np.random.default_rng(0).random(again.shape[:2])
    again[random < 0.25] += 1
    again[random > 0.98] += 3
    assert verdict([picture, again], 11) == "frozen"


def test_something_small_that_moves_is_life() -> None:
    pictures = []
    for step in range(10):
        picture = scene()
        picture[100 + 12 * step : 140 + 12 * step, 300:330] = 20
        pictures.append(picture)
    assert verdict(pictures, 30) == ""


def test_a_picture_that_moves_again_is_healed_at_once() -> None:
    health = PictureHealth(SETTINGS)
    picture = scene()
    for number in range(12 * RATE):
        said = health.judge(picture, number / RATE)
    assert said == "frozen"
    assert health.judge(noisy(scene(), 2.0, 1), 12.5) == ""


@pytest.mark.parametrize("level", [0, 12, 128, 250])
def test_a_dark_or_uniform_picture_is_covered(level: int) -> None:
    flat = np.full((360, 640, 3), level, np.uint8)
    pictures = [noisy(flat, 2.0, seed) for seed in range(5)]
    assert verdict(pictures, 2.5) == ""
    assert verdict(pictures, 4) == "covered"


def test_covered_goes_before_frozen() -> None:
    assert verdict([np.zeros((360, 640, 3), np.uint8)], 30) == "covered"


def test_a_dim_room_is_not_covered() -> None:
    dim = (scene() * 0.25).astype(np.uint8)
    assert verdict([noisy(dim, 2.0, seed) for seed in range(5)], 10) == ""


def test_zero_switches_a_check_off() -> None:
    health = PictureHealth(HealthSettings(frozen_after_s=0, covered_after_s=0))
    assert {health.judge(np.zeros((90, 160, 3), np.uint8), float(second)) for second in range(100)} == {""}


def test_a_new_picture_size_counts_as_change() -> None:
    assert not still(sample(scene(360, 640)), sample(scene(480, 640)))


def test_tiny_pictures_are_never_called_uniform() -> None:
    assert not uniform(sample(np.zeros((4, 4, 3), np.uint8)))


def test_pictures_between_two_checks_are_not_looked_at() -> None:
    health = PictureHealth(HealthSettings(frozen_after_s=10, check_period_s=0.25))
    same, other = scene(), noisy(scene(), 30, 1)
    for number in range(11 * 16):
        said = health.judge(other if number % 4 else same, number / 16)
    assert said == "frozen"


def test_a_rate_is_the_mean_of_the_last_ten_seconds() -> None:
    rate = Rate()
    assert rate.per_second(5.0) == 0.0
    for number in range(30 * 20):
        rate.add(number / 20)
    assert rate.total == 600
    assert rate.per_second(30.0) == pytest.approx(20, abs=2.1)
    assert rate.per_second(50.0) == 0.0


def test_a_young_rate_does_not_pretend_ten_seconds() -> None:
    rate = Rate()
    for number in range(50):
        rate.add(100 + number / 25)
    assert rate.per_second(102.0) == pytest.approx(25, abs=1)


def test_only_the_last_hour_counts() -> None:
    hour = LastHour()
    for moment in (0.0, 10.0, 3000.0):
        hour.add(moment)
    assert hour.count(3000.0) == 3
    assert hour.count(3605.0) == 2
    assert hour.count(7000.0) == 0


@pytest.mark.parametrize(
    ("state", "breaks", "rate", "expected", "said"),
    [
        ("running", 0, 25.0, 25.0, "excellent"),
        ("running", 0, 25.0, None, "excellent"),
        ("running", 1, 25.0, 25.0, "fair"),
        ("running", 0, 18.0, 25.0, "fair"),
        ("running", 0, 10.0, 25.0, "poor"),
        ("running", 6, 25.0, 25.0, "poor"),
        ("frozen", 0, 25.0, 25.0, "unusable"),
        ("failed", 0, 0.0, None, "unusable"),
        ("finished", 0, 0.0, 25.0, "excellent"),
    ],
)
def test_quality(state: str, breaks: int, rate: float, expected: float | None, said: str) -> None:
    assert quality(state, breaks, rate, expected) == said
