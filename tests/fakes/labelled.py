"""Labelled pictures for trainings, drawn by code: damaged or intact terrain as a satellite sees it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LABELS = ("intact", "damaged")


def terrain(damaged: bool, random: np.random.Generator, side: int = 32) -> NDArray[np.uint8]:
    """(side, side) grey: smooth ground with straight streets; where it is damaged, dark craters lie on it."""
    ground = cv2.resize(random.uniform(90, 170, (4, 4)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    ground += random.normal(0, 6, (side, side))
    for _ in range(2):
        ends = random.integers(0, side, 4).tolist()
        cv2.line(ground, ends[:2], ends[2:], float(random.uniform(180, 230)), 1)
    for _ in range(int(random.integers(3, 6)) if damaged else 0):
        cv2.circle(
            ground, random.integers(3, side - 3, 2).tolist(), int(random.integers(side // 12, side // 7)), float(random.uniform(0, 40)), -1
        )
    return np.asarray(np.clip(ground, 0, 255), np.uint8)


def draw(folder: Path, count: int, seed: int, patients: bool = True, side: int = 32) -> Path:
    """`count` pictures of each class in folders of their names; the CSV beside `folder` puts each three in a row into one group."""
    random = np.random.default_rng(seed)
    rows = []
    for label in LABELS:
        (folder / label).mkdir(parents=True)
        for place in range(count):
            path = folder / label / f"{place:03}.png"
            cv2.imwrite(str(path), terrain(label == "damaged", random, side))
            rows.append((f"{folder.name}/{label}/{path.name}", label, f"{seed}-{label}-{place // 3}"))
    if patients:
        with folder.with_name(f"{folder.name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("file", "label", "patient_group"), *rows])
    return folder


def tiny_recipe() -> dict[str, Any]:
    """For those pictures: a network that learns in a second."""
    return {
        "card": {"title": "Terrain", "licence": "ours", "training_data": "drawn by the tests"},
        "labels": list(LABELS),
        "positive": "damaged",
        "input": {"layout": "NHWC", "colour": "GREY", "sizes": [[32, 32]], "mean": [127.5], "scale": [64.0], "resize": "stretch"},
        "widths": [8, 16, 24],
        "dropout": 0.1,
        "epochs": 30,
        "batch": 16,
        "rate": 0.005,
        "averaging": 0.8,
        "augmentation": {"rotation": 180, "scale": 0.1, "contrast": 0.2, "flip": True},
        "folds": 3,
        "allowance": {"probability": 0.03, "agreement": 0.95},
    }
