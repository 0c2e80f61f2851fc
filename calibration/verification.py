"""How well pairs of photographs are told apart: same person, or not."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.stills import Detector, Image, find_faces, largest
from engines.results import Embeddings

COLUMNS = ("file_x", "file_y", "Decision")
Interval = tuple[float, float]


class Embedder(Protocol):
    """What turns faces into templates."""

    def chip(self, image: Image, landmarks: NDArray[np.float32]) -> Image:
        """The aligned chip of a face."""
        ...

    def embed(self, chips: NDArray[np.uint8]) -> Embeddings:
        """Templates of chips."""
        ...


class PairsError(Exception):
    """The list of pairs cannot be used, or a file that it names is not there. The message names file and line."""


class PictureError(Exception):
    """A file is no picture that can be decoded."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files and whether they show the same person."""

    first: str
    second: str
    same: bool


@dataclass(frozen=True, slots=True)
class Verification:
    """Figures over all pairs. A pair with a picture that shows no face counts as answered "No", at an infinite distance.

    images_unreadable: those among images_without_face that cannot be decoded, with the reason.

    accuracy: at `threshold`; best_accuracy: at the best threshold in hindsight; eer: equal error rate. Intervals are at 95 %:
    Wilson's for the accuracies (Wilson 1927), percentile bootstrap over pairs (Efron 1979) for roc_auc and eer; None where they do
    not exist because all pairs have one answer.
    """

    pairs: int
    same: int
    accuracy: float
    accuracy_interval: Interval
    best_accuracy: float
    best_accuracy_interval: Interval
    best_threshold: float
    roc_auc: float | None
    roc_auc_interval: Interval | None
    eer: float | None
    eer_interval: Interval | None
    threshold: float
    wrong_accepts: int
    wrong_rejects: int
    images: int
    images_without_face: tuple[str, ...]
    images_unreadable: dict[str, str] = field(default_factory=dict)


def read_pairs(path: Path, root: Path) -> list[Pair]:
    """Rows of a CSV file with the columns file_x, file_y and Decision (Yes or No); files count from `root`. Raises PairsError."""
    pairs: list[Pair] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise PairsError(f"{path}:1: missing columns: {', '.join(missing)}; there must be {', '.join(COLUMNS)}")
            for row in reader:
                pairs.append(_pair(row, f"{path}:{reader.line_num}", root))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PairsError(f"{path} cannot be read: {error}") from error
    if not pairs:
        raise PairsError(f"{path} lists no pairs")
    return pairs


def _pair(row: dict[str, str], place: str, root: Path) -> Pair:
    first, second, decision = ((row[column] or "").strip() for column in COLUMNS)
    if decision.casefold() not in ("yes", "no"):
        raise PairsError(f"{place}: Decision must be Yes or No, not {decision!r}")
    for name in (first, second):
        if not name:
            raise PairsError(f"{place}: a file name is missing")
        if not (root / name).is_file():
            raise PairsError(f"{place}: there is no file {root / name}")
    return Pair(first, second, decision.casefold() == "yes")


def verify(
    pairs: Sequence[Pair],
    root: Path,
    detector: Detector,
    embedder: Embedder,
    threshold: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Embed the largest face of each picture once and judge all pairs. `progress` gets pictures done and in all. Raises PairsError."""
    names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
    templates: dict[str, NDArray[np.float32] | None] = dict.fromkeys(names)
    unreadable: dict[str, str] = {}
    for done, name in enumerate(names, 1):
        try:
            templates[name] = template(root / name, detector, embedder)
        except PictureError as error:
            unreadable[name] = str(error)
        progress(done, len(names))
    distances = np.array([_distance(templates[pair.first], templates[pair.second]) for pair in pairs])
    without = tuple(name for name in names if templates[name] is None)
    result = figures(distances, np.array([pair.same for pair in pairs]), threshold, len(names), without)
    return replace(result, images_unreadable=unreadable)


def template(path: Path, detector: Detector, embedder: Embedder) -> NDArray[np.float32] | None:
    """Of the largest face; None if there is no face. Raises PictureError; PairsError for a file that cannot be read at all."""
    picture = _picture(path)
    faces = find_faces(detector, picture)
    if not len(faces):
        return None
    chip = embedder.chip(picture, faces.landmarks[largest(faces)])
    vector: NDArray[np.float32] = embedder.embed(chip[None]).vectors[0]
    return vector


def _picture(path: Path) -> Image:
    import cv2

    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise PairsError(f"{path} cannot be read: {error.strerror}") from error
    if not len(data):
        raise PictureError("the file is empty")
    try:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise PictureError("the file is damaged, or no picture of a known kind")
    return np.asarray(image, np.uint8)


def figures(
    distances: NDArray[np.float64], same: NDArray[np.bool_], threshold: float, images: int, without: tuple[str, ...]
) -> Verification:
    """All figures from the distances (N,) of pairs and the truth (N,)."""
    count = len(distances)
    right = int(np.sum((distances <= threshold) == same))
    best, best_threshold = best_cut(distances, same)
    both = bool(same.any()) and not bool(same.all())
    area_interval, error_interval = _bootstrap(distances, same) if both else (None, None)
    return Verification(
        pairs=count,
        same=int(same.sum()),
        accuracy=right / count,
        accuracy_interval=wilson(right, count),
        best_accuracy=best / count,
        best_accuracy_interval=wilson(best, count),
        best_threshold=best_threshold,
        roc_auc=roc_auc(distances, same) if both else None,
        roc_auc_interval=area_interval,
        eer=equal_error_rate(distances, same) if both else None,
        eer_interval=error_interval,
        threshold=threshold,
        wrong_accepts=int(np.sum((distances <= threshold) & ~same)),
        wrong_rejects=int(np.sum((distances > threshold) & same)),
        images=images,
        images_without_face=without,
    )


def best_cut(distances: NDArray[np.float64], same: NDArray[np.bool_]) -> tuple[int, float]:
    """The most right answers that one threshold gives, and that threshold: halfway between two distances."""
    order = np.argsort(distances, kind="stable")
    ordered = distances[order]
    right = int((~same).sum()) + np.concatenate([[0], np.cumsum(np.where(same[order], 1, -1))])
    possible = np.concatenate([[True], ordered[1:] > ordered[:-1], [bool(np.isfinite(ordered[-1]))]])
    cut = int(np.argmax(np.where(possible, right, -1)))
    below = ordered[cut - 1] if cut else 0.0
    above = ordered[cut] if cut < len(ordered) and np.isfinite(ordered[cut]) else below
    return int(right[cut]), float((below + above) / 2)


def roc_auc(distances: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The chance that a pair of one person is nearer than one of two; ties count half (Mann and Whitney 1947)."""
    different = np.sort(distances[~same])
    above = len(different) - np.searchsorted(different, distances[same], side="right")
    level = len(different) - np.searchsorted(different, distances[same], side="left") - above
    return float(np.mean(above + level / 2) / len(different))


def equal_error_rate(distances: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """Where as large a share of same pairs is rejected as of different pairs is accepted; between two thresholds the mean of both."""
    cuts = np.unique(np.concatenate([[-np.inf], distances[np.isfinite(distances)]]))
    rejected = 1 - np.searchsorted(np.sort(distances[same]), cuts, side="right") / same.sum()
    accepted = np.searchsorted(np.sort(distances[~same]), cuts, side="right") / (~same).sum()
    place = int(np.argmin(np.abs(rejected - accepted)))
    return float((rejected[place] + accepted[place]) / 2)


def wilson(right: int, count: int, z: float = 1.959964) -> Interval:
    """Wilson's score interval of a share, 95 % by default."""
    share = right / count
    centre = share + z**2 / (2 * count)
    width = z * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
    scale = 1 + z**2 / count
    return max((centre - width) / scale, 0.0), min((centre + width) / scale, 1.0)


def _bootstrap(distances: NDArray[np.float64], same: NDArray[np.bool_], rounds: int = 1000) -> tuple[Interval, Interval]:
    """Percentile intervals of roc_auc and eer. Both kinds of pairs are drawn apart, so that neither can be missing."""
    random = np.random.default_rng(0)
    genuine, impostor = distances[same], distances[~same]
    truth = np.repeat([True, False], [len(genuine), len(impostor)])
    areas, errors = np.empty(rounds), np.empty(rounds)
    for index in range(rounds):
        drawn = np.concatenate([random.choice(genuine, len(genuine)), random.choice(impostor, len(impostor))])
        areas[index], errors[index] = roc_auc(drawn, truth), equal_error_rate(drawn, truth)
    (area_low, area_high), (error_low, error_high) = (np.percentile(values, [2.5, 97.5]).tolist() for values in (areas, errors))
    return (area_low, area_high), (error_low, error_high)


def _distance(first: NDArray[np.float32] | None, second: NDArray[np.float32] | None) -> float:
    if first is None or second is None:
        return float("inf")
    return float(np.linalg.norm(first - second))
