"""Changes of a picture that leave its label true. Drawn from seed, epoch and place alone, so that a resumed run sees the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from engines.preprocess import Image, opencv


class Augmentation(BaseModel):
    """How far pictures are changed, each drawn evenly from its range. All zero: not at all.

    `rotation` in degrees either way; `scale`, `contrast` and `gamma` as exponents of e either way (0.1: by a factor of 0.9 to 1.1);
    `shift` as a share of the side; `brightness` as a share of the white; `noise`, the deviation of pixels, up to that share of the white;
    `blur`, the deviation of a Gauss filter in pixels, for half of the pictures; `erase`, the largest side of a grey rectangle as a share
    of the picture's, for half of the pictures (Zhong et al., "Random erasing data augmentation", AAAI 2020);
    `flip`: half of the pictures are mirrored left to right, which only a recipe that may do so says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rotation: float = Field(0.0, ge=0, le=180)
    scale: float = Field(0.0, ge=0, le=1)
    shift: float = Field(0.0, ge=0, le=0.5)
    brightness: float = Field(0.0, ge=0, le=1)
    contrast: float = Field(0.0, ge=0, le=1)
    gamma: float = Field(0.0, ge=0, le=1)
    noise: float = Field(0.0, ge=0, le=1)
    blur: float = Field(0.0, ge=0, le=10)
    erase: float = Field(0.0, ge=0, le=0.9)
    flip: bool = False


def augmented(pictures: NDArray[np.uint8], how: Augmentation, seed: tuple[int, ...], places: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Pictures (N, H, W, C) changed; the draw of each depends on `seed` and its place (N,)."""
    changed = [_one(picture, how, np.random.default_rng((*seed, int(place)))) for picture, place in zip(pictures, places, strict=True)]
    return np.stack(changed).reshape(pictures.shape)


def _one(picture: Image, how: Augmentation, random: np.random.Generator) -> Image:
    moved = _tone(_moved(picture, how, random), how, random)
    return _erased(moved, how, random) if how.erase else moved


def _moved(picture: Image, how: Augmentation, random: np.random.Generator) -> Image:
    cv2 = opencv()
    height, width = picture.shape[:2]
    turn, scale, shift_x, shift_y = random.uniform(-1, 1, 4)
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), turn * how.rotation, float(np.exp(scale * how.scale)))
    matrix[:, 2] += (shift_x * how.shift * width, shift_y * how.shift * height)
    if how.flip and random.random() < 0.5:
        matrix = matrix @ np.array([[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]])
    moved = cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    if how.blur and random.random() < 0.5:
        moved = cv2.GaussianBlur(moved, (0, 0), max(0.1, random.random() * how.blur))
    return np.asarray(moved, np.uint8)


def _tone(picture: Image, how: Augmentation, random: np.random.Generator) -> Image:
    gain, lift, bend = random.uniform(-1, 1, 3)
    grey = np.arange(256) / 255
    table = (grey ** np.exp(bend * how.gamma) - 0.5) * np.exp(gain * how.contrast) + 0.5 + lift * how.brightness
    if not how.noise:
        return np.asarray(np.clip(table * 255 + 0.5, 0, 255).astype(np.uint8)[picture])
    noisy = table.astype(np.float32)[picture] + random.standard_normal(picture.shape, np.float32) * (random.random() * how.noise)
    return np.asarray(np.clip(noisy * 255 + 0.5, 0, 255), np.uint8)


def _erased(picture: Image, how: Augmentation, random: np.random.Generator) -> Image:
    happens, tall, wide, top, left, grey = random.random(6)
    if happens < 0.5:
        return picture
    height, width = picture.shape[:2]
    rows, columns = int(height * how.erase * tall), int(width * how.erase * wide)
    y, x = int(top * (height - rows)), int(left * (width - columns))
    erased = picture.copy()
    erased[y : y + rows, x : x + columns] = int(255 * grey)
    return erased
