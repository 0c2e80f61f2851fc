"""A sample clip composed from two public-domain portraits: a known and an unknown person walk in, cross, leave and come back.

Portraits: Eileen Collins (NASA) and Grace Hopper (US Navy); see `engines/catalog/_assets.yaml` for their sources.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from agent.datatypes import Image

WIDTH, HEIGHT, RATE = 640, 360, 25
SECONDS = 40
FRAMES = SECONDS * RATE

Outline = tuple[tuple[int, int], ...]
COLLINS: tuple[Outline, Outline] = (
    (
        (150, 200),
        (140, 110),
        (170, 30),
        (250, 10),
        (310, 50),
        (315, 120),
        (300, 190),
        (320, 280),
        (365, 330),
        (375, 511),
        (40, 511),
        (45, 320),
        (110, 210),
    ),
    (
        (185, 170),
        (185, 90),
        (230, 50),
        (280, 90),
        (280, 165),
        (255, 205),
        (280, 300),
        (330, 370),
        (330, 505),
        (90, 505),
        (90, 340),
        (140, 250),
        (200, 200),
    ),
)
HOPPER: tuple[Outline, Outline] = (
    ((150, 120), (165, 15), (370, 15), (385, 120), (380, 280), (480, 350), (505, 599), (40, 599), (55, 400), (150, 350), (170, 280)),
    (
        (185, 110),
        (200, 40),
        (320, 40),
        (350, 110),
        (345, 250),
        (330, 330),
        (440, 400),
        (470, 590),
        (80, 590),
        (90, 420),
        (200, 350),
        (205, 240),
    ),
)
"""Around each person, outside and inside of the edge, in pixels of the portrait."""


@dataclass(frozen=True)
class Walk:
    """One person's way through the picture: key times in seconds; centre x and size as fractions of width and height; light as a factor."""

    who: str
    times: tuple[float, ...]
    x: tuple[float, ...]
    size: tuple[float, ...]
    light: tuple[float, ...]


SCRIPT = (
    Walk("known", (1, 4, 8, 10), (-0.25, 0.35, 0.45, -0.25), (0.75, 0.75, 1.0, 0.8), (1.0, 1.0, 1.0, 1.0)),
    Walk("unknown", (11, 14, 18, 20), (1.25, 0.6, 0.5, 1.25), (0.6, 0.7, 1.0, 0.7), (0.6, 0.6, 0.8, 0.6)),
    Walk("known", (21, 24, 28, 32), (-0.25, 0.25, 0.75, 1.25), (0.7, 0.7, 0.7, 0.7), (1.0, 1.0, 0.8, 0.7)),
    Walk("unknown", (21, 24, 28, 32), (1.25, 0.75, 0.25, -0.25), (0.9, 0.9, 0.9, 0.9), (0.9, 0.9, 1.0, 1.0)),
    Walk("known", (33, 35, 38, 39.5), (1.2, 0.7, 0.6, 1.2), (0.58, 0.58, 0.62, 0.58), (1.15, 1.15, 1.15, 1.15)),
)


def cut_out(portrait: Image, outlines: tuple[Outline, Outline]) -> tuple[Image, NDArray[np.float32]]:
    """The person and a soft mask (H, W) in 0..1, by GrabCut (Rother et al. 2004) between two outlines."""
    mask = np.full(portrait.shape[:2], cv2.GC_BGD, np.uint8)
    outer, inner = (np.array(outline, np.int32) for outline in outlines)
    cv2.fillPoly(mask, [outer], (cv2.GC_PR_FGD,))
    cv2.fillPoly(mask, [inner], (cv2.GC_FGD,))
    cv2.setRNGSeed(1)
    cv2.grabCut(portrait, mask, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    person = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    return portrait, cv2.GaussianBlur(person, (0, 0), 1.5).astype(np.float32)


def room() -> Image:
    """A plain room for people to walk through: wall, floor, a window's light."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    wall = np.stack([150 - 0.10 * y, 158 - 0.08 * y, 160 - 0.06 * y], axis=-1)
    window = np.exp(-(((x - 470) / 130) ** 2 + ((y - 90) / 90) ** 2))[..., None] * 45
    picture = wall + window
    floor = y > 300
    picture[floor] = np.stack([70 + 0.1 * (y - 300), 85 + 0.1 * (y - 300), 105 + 0.1 * (y - 300)], axis=-1)[floor]
    result: Image = np.clip(picture, 0, 255).astype(np.uint8)
    return result


def paste(canvas: Image, person: Image, mask: NDArray[np.float32], centre_x: float, height: float, light: float) -> None:
    """Put a person into the picture in place, feet below the lower edge; `height` and `centre_x` in pixels."""
    scale = height / person.shape[0]
    size = (max(1, round(person.shape[1] * scale)), max(1, round(height)))
    small = cv2.resize(person, size, interpolation=cv2.INTER_AREA).astype(np.float32) * light
    alpha = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)[..., None]
    left, top = round(centre_x - size[0] / 2), HEIGHT - size[1]
    x1, x2, y1 = max(left, 0), min(left + size[0], WIDTH), max(top, 0)
    if x1 >= x2:
        return
    inside = (slice(y1 - top, None), slice(x1 - left, x2 - left))
    target = canvas[y1:, x1:x2].astype(np.float32)
    canvas[y1:, x1:x2] = np.clip(target * (1 - alpha[inside]) + small[inside] * alpha[inside], 0, 255).astype(np.uint8)


def frames(known: Image, unknown: Image, script: Sequence[Walk] = SCRIPT) -> Iterator[Image]:
    """The clip's frames, (360, 640, 3) uint8 BGR, 25 a second until the last has left. Sensor noise comes from a seeded generator."""
    people = {"known": cut_out(known, COLLINS), "unknown": cut_out(unknown, HOPPER)}
    background, noise = room(), np.random.default_rng(7)
    grain = [noise.normal(0, 2.0, (HEIGHT, WIDTH, 1)).astype(np.float32) for _ in range(8)]
    for number in range(math.ceil(max(walk.times[-1] for walk in script)) * RATE):
        moment = number / RATE
        canvas = background.copy()
        for walk in script:
            if walk.times[0] <= moment <= walk.times[-1]:
                x, size, light = (float(np.interp(moment, walk.times, values)) for values in (walk.x, walk.size, walk.light))
                sway = 3 * np.sin(2 * np.pi * 1.6 * moment)
                paste(canvas, *people[walk.who], x * WIDTH + sway, size * HEIGHT * 0.95, light)
        yield np.clip(canvas + grain[number % len(grain)], 0, 255).astype(np.uint8)


def compose(known: Path, unknown: Path, clip: Path, script: Sequence[Walk] = SCRIPT) -> Iterator[None]:
    """Write the clip as MP4, complete or not at all; yields after each of its frames. Raises OSError where OpenCV cannot write it."""
    pictures = [_picture(path) for path in (known, unknown)]
    partial = clip.with_name(f".{clip.stem}.partial.mp4")
    writer = cv2.VideoWriter(str(partial), cv2.VideoWriter.fourcc(*"mp4v"), RATE, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot write {partial}: is the folder writable, and was OpenCV built with FFmpeg?")
    try:
        for picture in frames(pictures[0], pictures[1], script):
            writer.write(picture)
            yield
    finally:
        writer.release()
    partial.replace(clip)


def _picture(path: Path) -> Image:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise OSError(f"{path} is not a picture; delete it to have it fetched again")
    return picture.astype(np.uint8)
