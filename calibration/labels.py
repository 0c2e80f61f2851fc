"""Labelled sets, and what an engine scores on them."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.errors import LabelsError
from calibration.samples import fingerprint
from calibration.verification import PairsError, equal_error_rate, read_pairs
from engines.backends.base import IMAGE
from engines.base import Engine
from engines.card import ModelCard
from engines.decoders.base import DetectionDecoder, overlaps
from engines.decoders.classification import ClassificationDecoder
from engines.decoders.embedding import EmbeddingDecoder
from engines.parity import batches
from engines.preprocess import Image, fed, letterbox, opencv
from engines.results import F32

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
BOX = ("x1", "y1", "x2", "y2")
IOU = 0.5
LOWEST = 0.05
"""The score from which detections count for the average precision."""


class Labelled(Protocol):
    """A labelled set. `pictures` are as the engine takes them; `digest` is of pictures and labels; `marks`: fingerprints of the pictures,
    or of their faces.
    """

    pictures: list[Image]
    digest: str
    marks: list[int]

    def measure(self, engine: Engine) -> dict[str, float]:
        """The metrics, the most telling one first, each 0..1: `eer` is better small, all others large."""
        ...

    def half(self, second: bool) -> Labelled:
        """One half of the set, as like the other as can be; `digest` and `marks` stay those of the whole. Raises LabelsError."""
        ...


@dataclass(slots=True)
class Classes:
    """`truth`: by picture the place of its label on the card."""

    decoder: ClassificationDecoder
    pictures: list[Image]
    truth: NDArray[np.int64]
    digest: str
    marks: list[int]

    def measure(self, engine: Engine) -> dict[str, float]:
        """The share of right answers."""
        rows = np.concatenate([self.decoder.decode(rows) for rows in batches(engine, self.pictures)])[: len(self.pictures)]
        return {"accuracy": float(np.mean(rows.argmax(1) == self.truth))}

    def half(self, second: bool) -> Classes:
        """Every other picture of each class."""
        places = _half(self.truth, second)
        return replace(self, pictures=[self.pictures[place] for place in places], truth=self.truth[places])


@dataclass(slots=True)
class Boxes:
    """`truth`: by picture its boxes (N, 4) in pixels of the model's input."""

    decoder: DetectionDecoder
    pictures: list[Image]
    truth: list[F32]
    digest: str
    marks: list[int]

    def measure(self, engine: Engine) -> dict[str, float]:
        """The average precision at an IoU of 0.5."""
        found = [self.decoder.decode(engine.infer({IMAGE: picture[None]}), LOWEST) for picture in self.pictures]
        return {"average_precision": average_precision([(one.boxes, one.scores) for one in found], self.truth)}

    def half(self, second: bool) -> Boxes:
        """Every other picture."""
        places = _half(np.zeros(len(self.truth)), second)
        return replace(self, pictures=[self.pictures[place] for place in places], truth=[self.truth[place] for place in places])


@dataclass(slots=True)
class Pairs:
    """`pictures` are the aligned faces; `places`: by pair the two places of its faces, -1 for a picture without one."""

    decoder: EmbeddingDecoder
    pictures: list[Image]
    places: NDArray[np.int64]
    same: NDArray[np.bool_]
    threshold: float
    digest: str
    marks: list[int]

    def measure(self, engine: Engine) -> dict[str, float]:
        """Accuracy at the card's operating point, and the equal error rate."""
        return self.figures(self.distances(engine))

    def distances(self, engine: Engine) -> NDArray[np.float64]:
        """By pair; infinite where a picture shows no face."""
        vectors = np.concatenate([self.decoder.decode(rows) for rows in batches(engine, self.pictures)])
        first, second = self.places.T
        distances: NDArray[np.float64] = np.linalg.norm(vectors[first] - vectors[second], axis=1).astype(np.float64)
        distances[(self.places < 0).any(1)] = np.inf
        return distances

    def figures(self, distances: NDArray[np.float64]) -> dict[str, float]:
        """What `measure` says of those distances."""
        figures = {"accuracy": float(np.mean((distances <= self.threshold) == self.same))}
        if self.same.any() and not self.same.all():
            figures["eer"] = equal_error_rate(distances, self.same)
        return figures

    def half(self, second: bool) -> Pairs:
        """Every other pair of each kind, with the pictures of all."""
        places = _half(self.same, second)
        return replace(self, places=self.places[places], same=self.same[places])


def _half(kinds: NDArray[Any], second: bool) -> NDArray[np.intp]:
    """The places of every other one of each kind."""
    if len(kinds) < 2:
        raise LabelsError("the labelled set has one entry: by one half float nodes are chosen, by the other the verdict falls")
    return np.argsort(kinds, kind="stable")[int(second) :: 2]


def class_files(card: ModelCard, folder: Path) -> list[tuple[Path, int]]:
    """The pictures of a folder with a sub-folder for each of the card's labels, with the places of their labels. Raises LabelsError."""
    if not folder.is_dir():
        raise LabelsError(f"{folder} is no folder; a classifier's labels are a folder of pictures for each class")
    unknown = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name not in card.labels)
    if unknown:
        raise LabelsError(f"{folder}: {unknown[0]!r} is no label of {card.name}; they are {', '.join(card.labels)}")
    found = [
        (path, place)
        for place, label in enumerate(card.labels)
        for path in sorted(entry for entry in (folder / label).glob("*") if entry.suffix.lower() in PICTURES)
    ]
    if not found:
        raise LabelsError(f"{folder} holds no picture in folders named {', '.join(card.labels)}")
    return found


def read_classes(card: ModelCard, decoder: ClassificationDecoder, folder: Path) -> Classes:
    """The pictures that `class_files` lists. Raises LabelsError."""
    width, height = card.input.sizes[0]
    pictures, truth, marks = [], [], []
    for path, place in class_files(card, folder):
        picture = read_picture(path)
        pictures.append(fed(picture, card.input, width, height))
        truth.append(place)
        marks.append(fingerprint(picture))
    return Classes(decoder, pictures, np.array(truth, np.int64), _digest(pictures, truth), marks)


def read_boxes(card: ModelCard, decoder: DetectionDecoder, path: Path) -> Boxes:
    """JSON, {"file": [[x1, y1, x2, y2], …], …}, or CSV with the columns file, x1, y1, x2, y2 (empty where a picture has no box); files
    count from the labels' folder, boxes are in their pixels. Raises LabelsError.
    """
    listed = _boxes_of_json(path) if path.suffix.lower() == ".json" else _boxes_of_csv(path)
    if not listed:
        raise LabelsError(f"{path} lists no picture")
    width, height = card.input.sizes[0]
    pictures, truth, marks = [], [], []
    for name, boxes in listed.items():
        picture = read_picture(path.parent / name)
        marks.append(fingerprint(picture))
        canvas, placed = letterbox(picture, width, height, card.input.pad)
        pictures.append(canvas)
        truth.append(placed.to_canvas(np.array(boxes, np.float32).reshape(-1, 2, 2)).reshape(-1, 4))
    return Boxes(decoder, pictures, truth, _digest(pictures, [boxes.tolist() for boxes in truth]), marks)


def read_labelled_pairs(
    card: ModelCard, decoder: EmbeddingDecoder, path: Path, chip: Callable[[Image], Image | None], root: Path | None = None
) -> Pairs:
    """The CSV of `almena eval faces`; files count from `root`, or from its folder. `chip`: the aligned largest face of a picture.

    Raises LabelsError.
    """
    root = root or path.parent
    try:
        pairs = read_pairs(path, root)
    except PairsError as error:
        raise LabelsError(str(error)) from error
    names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
    faces = {name: chip(read_picture(root / name)) for name in names}
    seen = {name: place for place, name in enumerate(name for name in names if faces[name] is not None)}
    pictures = [face for name in seen if (face := faces[name]) is not None]
    if not pictures:
        raise LabelsError(f"{path}: no face was found in any of its {len(names)} pictures")
    places = np.array([(seen.get(pair.first, -1), seen.get(pair.second, -1)) for pair in pairs], np.int64)
    same = np.array([pair.same for pair in pairs])
    threshold = card.thresholds.verify
    assert threshold is not None
    digest = _digest(pictures, [places.tolist(), same.tolist()])
    return Pairs(decoder, pictures, places, same, threshold, digest, [fingerprint(face) for face in pictures])


def average_precision(found: Sequence[tuple[F32, F32]], truth: Sequence[F32]) -> float:
    """Area under the precision envelope over recall (Everingham et al. 2010, all points), for one class.

    By picture: `found` boxes (N, 4) with scores (N,), best first, and true boxes (M, 4). A true box is found once. 1 where there are
    neither true boxes nor found ones.
    """
    hits: list[tuple[float, bool]] = []
    for (boxes, scores), real in zip(found, truth, strict=True):
        free = np.ones(len(real), bool)
        for box, score in zip(boxes, scores, strict=True):
            table = np.where(free, overlaps(box[None], real)[0], 0.0) if len(real) else np.zeros(1)
            best = int(table.argmax())
            hit = bool(table[best] >= IOU)
            if hit:
                free[best] = False
            hits.append((float(score), hit))
    count = sum(len(real) for real in truth)
    if not count:
        return 0.0 if hits else 1.0
    right = np.cumsum([hit for _, hit in sorted(hits, key=lambda entry: -entry[0])])
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    return float(np.sum(precision * np.diff(right, prepend=0)) / count)


def read_picture(path: Path) -> Image:
    """(H, W, 3) uint8 BGR. Raises LabelsError."""
    image = opencv().imread(str(path)) if path.is_file() else None
    if image is None:
        raise LabelsError(f"{path} is not a picture that can be read")
    return np.asarray(image, np.uint8)


def _boxes_of_json(path: Path) -> Mapping[str, list[list[float]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabelsError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(boxes, list) for boxes in content.values()):
        raise LabelsError(f'{path}: must be {{"file": [[x1, y1, x2, y2], ...], ...}}')
    return {name: [_box(box, f"{path}: {name}") for box in boxes] for name, boxes in content.items()}


def _boxes_of_csv(path: Path) -> Mapping[str, list[list[float]]]:
    listed: dict[str, list[list[float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := [column for column in ("file", *BOX) if column not in (reader.fieldnames or ())]:
                raise LabelsError(f"{path}:1: missing columns: {', '.join(missing)}; there must be file, {', '.join(BOX)}")
            for row in reader:
                boxes = listed.setdefault(row["file"] or "", [])
                if any(row[column] for column in BOX):
                    boxes.append(_box([row[column] for column in BOX], f"{path}:{reader.line_num}"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{path} cannot be read: {error}") from error
    return listed


def _box(values: Any, place: str) -> list[float]:
    try:
        x1, y1, x2, y2 = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise LabelsError(f"{place}: a box must be four numbers, not {values!r}") from error
    if not (x1 < x2 and y1 < y2):
        raise LabelsError(f"{place}: a box must have x1 < x2 and y1 < y2, not {values!r}")
    return [x1, y1, x2, y2]


def _digest(pictures: Sequence[Image], labels: Any) -> str:
    whole = hashlib.sha256(json.dumps(labels).encode())
    for picture in pictures:
        whole.update(hashlib.sha256(picture.tobytes()).digest())
    return whole.hexdigest()
