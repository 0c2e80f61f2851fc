"""Representative pictures to calibrate with, chosen out of what a device sees. Nothing of them is stored."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration.errors import SamplesError
from engines.card import ModelCard, ModelInput
from engines.preprocess import Image, fed, letterbox, opencv
from engines.results import F32

LEAST = 12
"""Samples without which nothing can be said: six for the ranges, three for choices and three for the verdict."""
MEANINGFUL = 80
"""Samples from which on the verdict is by twenty: with fewer, the worst one alone may decide."""
PARTS = 4
"""Of so many samples two are for the ranges, one for choices and one for the verdict."""
ALIKE = 4
"""Of 64 bits, how many may differ between pictures that count as the same."""
SIDE = 8


@dataclass(frozen=True, slots=True)
class Samples:
    """Pictures as built engines take them, (H, W, C) uint8 each.

    `choices`: by which kinds of ranges and float nodes are chosen; `verdict`: by which nothing is chosen.
    `seen`: how many frames they were chosen from; `digest`: SHA-256 of all.
    """

    ranges: tuple[Image, ...]
    choices: tuple[Image, ...]
    verdict: tuple[Image, ...]
    seen: int
    digest: str

    def __len__(self) -> int:
        return len(self.ranges) + len(self.choices) + len(self.verdict)


class Seen(NamedTuple):
    """A picture as the model gets it, with the fingerprints of what was seen and of its mirror image."""

    mark: int
    mirrored: int
    picture: Image

    @classmethod
    def of(cls, seen: Image, picture: Image) -> Seen:
        """`seen`: the frame or the face that `picture` was made of."""
        return cls(fingerprint(seen), fingerprint(seen[:, ::-1]), picture)


def gather(
    card: ModelCard,
    frames: Iterable[Image],
    count: int,
    chips: Callable[[Image], Sequence[Image]] | None = None,
    faces: Callable[[Image], bool] | None = None,
    avoid: Collection[int] = (),
) -> Samples:
    """At most `count` samples of variety out of `frames`, (H, W, 3) uint8 BGR each. Raises SamplesError.

    `chips`: for embedders, the aligned faces of a frame. `faces`: for detectors, whether the FP32 model finds a face in a sample; those
    with a face are told from those without, so that both are in each part. `avoid`: fingerprints of labelled pictures, or of their
    faces, whose like is left out.
    """
    seen = 0

    def counted() -> Iterator[Image]:
        nonlocal seen
        for frame in frames:
            seen += 1
            yield frame

    chosen = choose(_shaped(card, counted(), chips), count, avoid)
    if not seen:
        raise SamplesError(f"{card.name}: there is no picture to calibrate with")
    what = "faces" if card.task == "face-embedding" else "pictures"
    if len(chosen) < LEAST:
        raise SamplesError(
            f"{card.name}: {seen} frames held {len(chosen)} {what} that differ from each other; at least {LEAST} are needed."
            f" {_advice(card)}"
        )
    groups = [chosen]
    if faces is not None:
        with_face = [faces(one.picture) for one in chosen]
        groups = [[one for one, has in zip(chosen, with_face, strict=True) if has == kind] for kind in (True, False)]
        if len(groups[0]) < PARTS:
            raise SamplesError(
                f"{card.name}: the FP32 model finds a face in {len(groups[0])} of {len(chosen)} pictures; at least {PARTS} must have"
                f" one. {_advice(card)}"
            )
    ranges, choices, verdict = (
        tuple(one.picture for group in groups for one, part in zip(group, _parts(group), strict=True) if part in parts)
        for parts in ((0, 2), (1,), (3,))
    )
    digest = hashlib.sha256(b"".join(hashlib.sha256(picture.tobytes()).digest() for picture in (*ranges, *choices, *verdict))).hexdigest()
    return Samples(ranges, choices, verdict, seen, digest)


def choose(pictures: Iterable[Seen], count: int, avoid: Collection[int] = ()) -> list[Seen]:
    """At most `count` of `pictures`; near-duplicates and the like of `avoid` left out, the most different first.

    Greedy k-centre (Gonzalez 1985) on thumbnails. At most twice as many are held in memory: when those are full, they are thinned out.
    What stays of more than that hangs on their order; a scene unlike the others stays in any order, which it would not in a random sample.
    """
    known = np.array(list(avoid), np.uint64)
    pool: list[Seen] = []
    for one in pictures:
        mark = np.uint64(one.mark)
        if len(known) and _apart(known, mark).min() <= ALIKE:
            continue
        known = np.append(known, mark)
        pool.append(one)
        if len(pool) == 2 * count:
            pool = _centres(pool, count)
    return _centres(pool, count)


def fingerprint(picture: Image) -> int:
    """64 bits that near-duplicates share but for a few: whether each cell of an 8x9 thumbnail is brighter than its left neighbour."""
    cv2 = opencv()
    grey = picture if picture.ndim == 2 else picture.mean(2).astype(np.uint8)
    small = cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def normalised(picture: Image, feed: ModelInput) -> F32:
    """One picture, (H, W, C) uint8 BGR or grey, as the model's own input: a batch of one."""
    ordered = picture[..., ::-1] if feed.colour == "RGB" else picture
    values = (ordered.astype(np.float32) - np.array(feed.mean, np.float32)) / np.array(feed.scale, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1) if feed.layout == "NCHW" else values, np.float32)[None]


def _shaped(card: ModelCard, frames: Iterable[Image], chips: Callable[[Image], Sequence[Image]] | None) -> Iterator[Seen]:
    """What the model would get of each frame, or of the faces in it.

    Faces are not looked for in frames like one before.
    """
    width, height = card.input.sizes[0]
    known = np.zeros(0, np.uint64)
    for frame in frames:
        if chips is None:
            is_detector = card.task == "face-detection"
            fitted = letterbox(frame, width, height, card.input.pad)[0] if is_detector else fed(frame, card.input, width, height)
            yield Seen.of(frame, fitted)
            continue
        mark = np.uint64(fingerprint(frame))
        if not len(known) or _apart(known, mark).min() > ALIKE:
            known = np.append(known, mark)
            yield from (Seen.of(chip, chip) for chip in chips(frame))


def _apart(marks: NDArray[np.uint64], mark: np.uint64) -> NDArray[np.int64]:
    """In how many bits each of `marks` differs from `mark`."""
    bits = np.unpackbits((marks ^ mark).view(np.uint8).reshape(-1, 8), axis=1)
    return np.asarray(bits.sum(1), np.int64)


def _centres(pictures: list[Seen], count: int) -> list[Seen]:
    if not pictures:
        return []
    cv2 = opencv()
    thumbnails = [cv2.resize(one.picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).reshape(-1) for one in pictures]
    points = np.stack(thumbnails).astype(np.float32)
    first = int(np.linalg.norm(points - points.mean(0), axis=1).argmin())
    chosen, distance = [first], np.linalg.norm(points - points[first], axis=1)
    while len(chosen) < min(count, len(points)):
        distance[chosen[-1]] = -1.0
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return [pictures[index] for index in chosen]


def _parts(pictures: Sequence[Seen]) -> list[int]:
    """For which of PARTS each is, in turns. A picture and its mirror image go together: what the verdict is by is not known from elsewhere,
    and does not hang on which of the two came first."""
    parts: list[int] = []
    turns = itertools.cycle(range(PARTS))
    for one in pictures:
        twin = next((part for other, part in zip(pictures, parts, strict=False) if (other.mirrored ^ one.mark).bit_count() <= ALIKE), None)
        parts.append(next(turns) if twin is None else twin)
    return parts


def _advice(card: ModelCard) -> str:
    if card.task == "classification":
        return "Take more, and different, pictures of what the model is for."
    return "Take pictures of people, more of them or a longer recording, from the camera that the model will see through."
