"""Labelled pictures in folders, and how they are divided so that no patient is on both sides."""

from __future__ import annotations

import csv
import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.labels import PICTURES, read_picture
from engines.card import ModelInput
from engines.preprocess import Image, fed
from training.errors import DataError

log = logging.getLogger(__name__)

COLUMNS = ("file", "label", "patient_group")


@dataclass(frozen=True, slots=True)
class Listed:
    """A picture's file, its label, and the group of pictures that belong together: those of one patient."""

    path: Path
    label: str
    group: str


@dataclass(frozen=True, slots=True)
class Examples:
    """Pictures (N, H, W, C) uint8 as the network's card feeds them, the place of each one's label (N,), and its group (N,).

    `digest` is of labels, groups and pixels, whatever the files are called.
    """

    pictures: NDArray[np.uint8]
    truth: NDArray[np.int64]
    groups: NDArray[np.str_]
    labels: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.truth)

    def part(self, chosen: NDArray[np.intp]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Pictures and truth of some."""
        return self.pictures[chosen], self.truth[chosen]


def listing(folder: Path) -> list[Listed]:
    """The pictures of a folder with a sub-folder for each class, grouped by patient where a CSV says so.

    The CSV, with the columns file, label and patient_group, is `FOLDER.csv` beside the folder or `labels.csv` in it; its files count from
    where it lies. Without one every picture is its own group, together with its copies. Raises DataError.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; training takes a folder of pictures for each class")
    for table in (folder.with_name(f"{folder.name}.csv"), folder / "labels.csv"):
        if table.is_file():
            return _of_table(table)
    log.warning("%s has no CSV with a column patient_group: pictures of one patient may fall on both sides of a division", folder)
    found = [
        Listed(path, place.name, _itself(path))
        for place in sorted(entry for entry in folder.iterdir() if entry.is_dir())
        for path in sorted(entry for entry in place.iterdir() if entry.suffix.lower() in PICTURES)
    ]
    if not found:
        raise DataError(f"{folder} holds no pictures in folders named like their classes")
    return found


def _itself(path: Path) -> str:
    """The group of a picture and its copies."""
    try:
        return f"picture {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _of_table(table: Path) -> list[Listed]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
                raise DataError(f"{table}:1: missing columns: {', '.join(missing)}; there must be {', '.join(COLUMNS)}")
            found = [Listed(table.parent / row["file"], row["label"], row["patient_group"]) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read: {error}") from error
    for line, one in enumerate(found, 2):
        if not one.label or not one.group:
            raise DataError(f"{table}:{line}: label or patient_group is empty")
    if not found:
        raise DataError(f"{table} lists no pictures")
    return found


def divided(folder: Path) -> tuple[Path, Path | None]:
    """The folders to train on and to validate on: `train` and `val` in `folder` where it has them, else itself and none."""
    if (folder / "train").is_dir():
        return folder / "train", folder / "val" if (folder / "val").is_dir() else None
    return folder, None


def read(folder: Path, feed: ModelInput, labels: Sequence[str]) -> Examples:
    """All pictures of `folder`, fed as the first size of `feed` says. Raises DataError, LabelsError."""
    listed = listing(folder)
    if strange := sorted({one.label for one in listed} - set(labels)):
        raise DataError(f"{folder}: {strange[0]!r} is none of the recipe's classes; they are {', '.join(labels)}")
    if empty := sorted(set(labels) - {one.label for one in listed}):
        raise DataError(f"{folder} holds no picture of the class {empty[0]!r}")
    width, height = feed.sizes[0]
    pictures = np.stack([fed(read_picture(one.path), feed, width, height) for one in listed])
    digest = hashlib.sha256()
    for one, picture in zip(listed, pictures, strict=True):
        digest.update(f"{one.label}\0{one.group}\0".encode() + hashlib.sha256(picture.tobytes()).digest())
    truth = np.array([tuple(labels).index(one.label) for one in listed], np.int64)
    return Examples(pictures, truth, np.array([one.group for one in listed]), tuple(labels), digest.hexdigest())


def require_apart(first: Examples, second: Examples) -> None:
    """Raise DataError where a group is in both."""
    if both := sorted(set(first.groups) & set(second.groups)):
        raise DataError(
            f"{len(both)} patient groups (without a CSV: pictures) are in the training and the validation data, {both[0]} among them;"
            " divide them anew"
        )


def grouped_folds(truth: NDArray[np.int64], groups: NDArray[np.str_], count: int, seed: int) -> NDArray[np.int64]:
    """The fold (N,) of each picture: no group is split, and classes are spread as evenly as that allows.

    Groups are dealt out, those of most pictures first and equals in the order of the seed, each to the fold that then has the evenest
    shares of its classes. Raises DataError where there are too few groups.
    """
    classes = int(truth.max()) + 1
    members: dict[str, list[int]] = defaultdict(list)
    for place, group in enumerate(groups.tolist()):
        members[group].append(place)
    if len(members) < count:
        raise DataError(f"{count} folds need at least as many patient groups, not {len(members)}")
    names = [sorted(members)[place] for place in np.random.default_rng(seed).permutation(len(members))]
    names.sort(key=lambda name: -len(members[name]))
    totals = np.bincount(truth, minlength=classes)
    dealt = np.zeros((count, classes))
    folds = np.zeros(len(truth), np.int64)
    for name in names:
        holds = np.bincount(truth[members[name]], minlength=classes)
        spread = [np.square((dealt + holds * (np.arange(count) == fold)[:, None]) / totals).sum() for fold in range(count)]
        fullest = dealt.sum(1)
        best = min(range(count), key=lambda fold: (round(float(spread[fold]), 12), fullest[fold]))
        dealt[best] += holds
        folds[members[name]] = best
    return folds


def shown(picture: Image) -> Image:
    """A picture of `Examples` as the engines' classifiers take it: (H, W, 3) BGR."""
    return np.repeat(picture, 3, 2) if picture.shape[2] == 1 else picture
