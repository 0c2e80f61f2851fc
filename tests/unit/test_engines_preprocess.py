from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.card import ModelInput, card
from engines.preprocess import aligned, best_size, fed, letterbox, roomy, similarity

pytestmark = pytest.mark.unit

SIZES = card("centerface").input.sizes
TEMPLATE = np.array(card("dlib-resnet").alignment.template, np.float32)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((640, 360), (640, 384)),
        ((1280, 720), (640, 384)),
        ((640, 480), (640, 480)),
        ((512, 512), (640, 640)),
        ((200, 100), (320, 320)),
        ((1080, 1920), (384, 640)),
    ],
)
def test_the_size_that_shrinks_least(picture: tuple[int, int], size: tuple[int, int]) -> None:
    assert best_size(*picture, SIZES) == size


def test_stills_are_shrunk_no_more_in_the_one_size_that_they_share() -> None:
    shared = {size: roomy(size, SIZES) for size in SIZES}
    assert set(shared.values()) == {SIZES[0], (640, 640)}
    assert all(room[0] >= size[0] and room[1] >= size[1] for size, room in shared.items())


def test_a_picture_that_fits_is_padded_only() -> None:
    image = np.random.default_rng(0).integers(1, 256, (360, 640, 3), np.uint8)
    canvas, placed = letterbox(image, 640, 384, 7)
    assert (canvas[:360] == image).all()
    assert (canvas[360:] == 7).all()
    assert (placed.scale_x, placed.scale_y) == (1.0, 1.0)


def test_a_narrow_picture_is_padded_on_the_right() -> None:
    canvas, _ = letterbox(np.full((384, 10, 3), 255, np.uint8), 640, 384)
    assert canvas[:, :10].all()
    assert not canvas[:, 10:].any()


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(SIZES))
def test_coordinates_come_back(width: int, height: int, size: tuple[int, int]) -> None:
    canvas, placed = letterbox(np.zeros((height, width, 3), np.uint8), *size)
    assert canvas.shape == (size[1], size[0], 3)
    corners = np.array([[0, 0], [width, height], [width / 3, height / 7]], np.float32)
    inside = placed.to_canvas(corners)
    assert (inside <= np.array(size) + 1e-3).all()
    np.testing.assert_allclose(placed.to_picture(inside), corners, rtol=1e-5, atol=1e-3)


def test_a_mark_lands_where_the_map_says() -> None:
    image = np.zeros((1080, 1920, 3), np.uint8)
    image[400:480, 1200:1280] = 255
    canvas, placed = letterbox(image, 640, 384)
    rows, columns = np.nonzero(canvas[..., 0] > 127)
    found = placed.to_picture(np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]], np.float32))
    np.testing.assert_allclose(found, [[1200, 400], [1280, 480]], atol=3)


@given(st.floats(-3.1, 3.1), st.floats(0.05, 20), st.floats(-500, 500), st.floats(-500, 500))
def test_similarity_undoes_any_turn_scale_and_shift(angle: float, scale: float, dx: float, dy: float) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE @ turn.T + [dx, dy]).astype(np.float32)
    matrix = similarity(points, TEMPLATE)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE, atol=0.05 + 0.01 / scale)


def test_similarity_is_the_least_squares_one() -> None:
    rng = np.random.default_rng(3)
    points = TEMPLATE + rng.normal(0, 4, TEMPLATE.shape).astype(np.float32)
    matrix = similarity(points, TEMPLATE)

    def error(m: np.ndarray) -> float:
        return float(((points @ m[:, :2].T + m[:, 2] - TEMPLATE) ** 2).sum())

    for _ in range(200):
        a, b, x, y = rng.normal(0, [0.01, 0.01, 0.5, 0.5])
        other = matrix + np.array([[a, -b, x], [b, a, y]])
        assert error(matrix) <= error(other)


def test_landmarks_that_coincide_are_an_error() -> None:
    with pytest.raises(ValueError, match="coincide"):
        similarity(np.zeros((5, 2), np.float32), TEMPLATE)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5, 6.0])
def test_a_chip_shows_the_landmarks_on_the_template(scale: float) -> None:
    size = int(200 * scale)
    landmarks = (TEMPLATE + 20) * np.float32(scale)
    image = np.zeros((size, size, 3), np.uint8)
    for x, y in landmarks:
        cv2.circle(image, (round(float(x)), round(float(y))), max(2, round(4 * scale)), (255, 255, 255), -1)
    chip = aligned(image, landmarks, TEMPLATE, 150)
    assert chip.shape == (150, 150, 3)
    count, _, _, centres = cv2.connectedComponentsWithStats((chip[..., 0] > 127).astype(np.uint8))
    assert count == 6
    found = centres[1:][np.lexsort(centres[1:].T)]
    np.testing.assert_allclose(found, TEMPLATE[np.lexsort(TEMPLATE.T)], atol=1.0)


def test_a_face_at_the_edge_is_black_outside() -> None:
    chip = aligned(np.full((100, 100, 3), 200, np.uint8), TEMPLATE - 120, TEMPLATE, 150)
    assert not chip[:, :100].any()


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "crop"])
@given(st.integers(8, 300), st.integers(8, 300), st.tuples(st.integers(8, 120), st.integers(8, 120)))
def test_grey_gives_what_its_three_equal_channels_give(resize: str, width: int, height: int, size: tuple[int, int]) -> None:
    feed = ModelInput.model_validate({"layout": "NHWC", "colour": "BGR", "sizes": [size], "resize": resize, "pad": 7})
    grey = np.random.default_rng(width).integers(0, 256, (height, width), np.uint8)
    assert np.array_equal(fed(grey, feed, *size), fed(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), feed, *size))
