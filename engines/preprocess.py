"""Pictures to model inputs, and coordinates back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.card import ModelInput
from engines.errors import EngineError, MissingRuntimeError

Image = NDArray[np.uint8]
F32 = NDArray[np.float32]


@cache
def opencv() -> Any:
    """The module cv2, loaded when the first picture comes. Raises MissingRuntimeError."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingRuntimeError("pictures need OpenCV, which is not installed: pip install opencv-python-headless") from error
    return cv2


@dataclass(frozen=True, slots=True)
class Letterbox:
    """A picture shrunk by (`scale_x`, `scale_y`) to (`width`, `height`) in the top left corner of a canvas."""

    width: int
    height: int
    scale_x: float
    scale_y: float

    @staticmethod
    def of(image: Image, width: int, height: int) -> Letterbox:
        """Where `image` (H, W, C) comes to lie on a canvas (height, width, C): it keeps its aspect ratio and is never enlarged."""
        rows, columns = image.shape[:2]
        scale = min(width / columns, height / rows, 1.0)
        inner_width, inner_height = max(1, round(columns * scale)), max(1, round(rows * scale))
        return Letterbox(inner_width, inner_height, inner_width / columns, inner_height / rows)

    def draw(self, image: Image, canvas: Image, pad: int) -> None:
        """Write the picture onto the canvas, and `pad` beside and below it."""
        if image.shape[:2] != (self.height, self.width):
            resized = opencv().resize(image, (self.width, self.height), interpolation=opencv().INTER_AREA)
            image = np.asarray(resized, np.uint8).reshape(self.height, self.width, -1)
        canvas[: self.height, : self.width] = image
        canvas[self.height :] = pad
        canvas[: self.height, self.width :] = pad

    def to_picture(self, points: F32) -> F32:
        """Canvas pixels (..., 2), x and y, to pixels of the picture."""
        return np.divide(points, (self.scale_x, self.scale_y), dtype=np.float32)

    def to_canvas(self, points: F32) -> F32:
        """Pixels of the picture (..., 2), x and y, to canvas pixels."""
        return np.multiply(points, (self.scale_x, self.scale_y), dtype=np.float32)


def best_size(width: int, height: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of `sizes`, (width, height) each, the one that shrinks a picture least; of equals the one of the smallest area."""
    return max(sizes, key=lambda size: (min(size[0] / width, size[1] / height, 1.0), -size[0] * size[1]))


def roomy(size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of `sizes`, one that `size` fits into: the first, which is in use anyway, else the one of the largest area."""
    wide = [other for other in sizes if other[0] >= size[0] and other[1] >= size[1]]
    return wide[0] if wide[0] == sizes[0] else max(wide, key=lambda other: other[0] * other[1])


def letterbox(image: Image, width: int, height: int, pad: int = 0) -> tuple[Image, Letterbox]:
    """`image` (H, W, C) on a canvas (height, width, C), its aspect ratio kept: shrunk if too large, never enlarged, padded with `pad`."""
    placed = Letterbox.of(image, width, height)
    canvas = np.empty((height, width, image.shape[2]), np.uint8)
    placed.draw(image, canvas, pad)
    return canvas, placed


def stretched(image: Image, width: int, height: int) -> Image:
    """`image` (H, W) or (H, W, C) resized to (height, width), its aspect ratio not kept."""
    shrinks = image.shape[0] * image.shape[1] > width * height
    cv2 = opencv()
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR), np.uint8)


def cropped(image: Image, width: int, height: int) -> Image:
    """The middle of `image` (H, W) or (H, W, C), scaled so that it just fills (height, width)."""
    rows, columns = image.shape[:2]
    scale = max(width / columns, height / rows)
    inner_width, inner_height = max(width, round(columns * scale)), max(height, round(rows * scale))
    left, top = (inner_width - width) // 2, (inner_height - height) // 2
    return np.ascontiguousarray(stretched(image, inner_width, inner_height)[top : top + height, left : left + width])


def fed(image: Image, feed: ModelInput, width: int, height: int) -> Image:
    """One picture, (H, W, 3) uint8 BGR or (H, W) grey, as a classifier's built engine takes it: (height, width, channels) uint8."""
    if image.ndim < 2 or image.shape[2:] not in ((), (3,)) or image.dtype != np.uint8 or not image.size:
        raise EngineError(f"a picture must be (H, W, 3) or (H, W) uint8, not {image.shape} {image.dtype}")
    if feed.channels == 1 and image.ndim == 3:
        image = opencv().cvtColor(image, opencv().COLOR_BGR2GRAY)
    if feed.resize == "letterbox":
        shaped = letterbox(image if image.ndim == 3 else image[:, :, None], width, height, feed.pad)[0]
    else:
        shaped = (cropped if feed.resize == "crop" else stretched)(image, width, height)
    if feed.channels == 3 and image.ndim == 2:  # the same as before shrinking, for a third of the work
        shaped = opencv().cvtColor(shaped, opencv().COLOR_GRAY2BGR)
    return np.ascontiguousarray(shaped.reshape(height, width, feed.channels))


def similarity(points: F32, template: F32) -> NDArray[np.float64]:
    """The 2x3 matrix that rotates, scales and shifts `points` (N, 2) onto `template` (N, 2) with the least squared error.

    S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 13(4), 1991; in the plane and
    without reflection its solution is one complex division. Raises ValueError if all points coincide.
    """
    source = [complex(x, y) for x, y in points.tolist()]
    target = [complex(x, y) for x, y in template.tolist()]
    middle, goal = sum(source) / len(source), sum(target) / len(target)
    spread = sum(abs(point - middle) ** 2 for point in source)
    if not math.isfinite(spread) or spread < 1e-9:
        raise ValueError("landmarks coincide or are not finite; there is no face to align")
    turn = sum((point - middle).conjugate() * (aim - goal) for point, aim in zip(source, target, strict=True)) / spread
    shift = goal - turn * middle
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def aligned(image: Image, landmarks: F32, template: F32, size: int) -> Image:
    """The (size, size, 3) chip of `image` in which `landmarks` (5, 2) come to lie on `template` (5, 2). Outside the picture is black.

    A face much larger than the chip is first shrunk by area averaging, so that nothing aliases.
    """
    cv2 = opencv()
    matrix = similarity(landmarks, template)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:
        image, matrix = _shrunk(image, matrix, size, scale)
    return np.asarray(cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR), np.uint8)


def _shrunk(image: Image, matrix: NDArray[np.float64], size: int, scale: float) -> tuple[Image, NDArray[np.float64]]:
    """The part of `image` that the chip shows, about as large as the chip, and the matrix that fits it."""
    cv2 = opencv()
    turn, place = complex(*matrix[:, 0]), complex(*matrix[:, 2])
    seen = [(complex(x, y) - place) / turn for x in (0, size) for y in (0, size)]
    height, width = image.shape[:2]
    x1 = min(max(math.floor(min(point.real for point in seen)), 0), width - 1)
    y1 = min(max(math.floor(min(point.imag for point in seen)), 0), height - 1)
    x2 = min(max(math.ceil(max(point.real for point in seen)) + 1, x1 + 1), width)
    y2 = min(max(math.ceil(max(point.imag for point in seen)) + 1, y1 + 1), height)
    part = image[y1:y2, x1:x2]
    small = cv2.resize(part, (max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale))), interpolation=cv2.INTER_AREA)
    ratio = np.array([(x2 - x1) / small.shape[1], (y2 - y1) / small.shape[0]])
    turned = matrix[:, :2] * ratio
    shift = matrix[:, :2] @ (np.array([x1, y1]) + (ratio - 1) / 2) + matrix[:, 2]
    return np.asarray(small, np.uint8), np.hstack([turned, shift[:, None]])
