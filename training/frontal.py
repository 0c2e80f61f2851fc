"""`python -m training.frontal --data DIR --write FILE`: fits what `agent.vision.frontal` compares pictures with."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.vision.frontal import F32, SIDE, Frontal, features
from engines.preprocess import opencv
from training.data import listing

AXES = 20
FOLDS = 10
REFUSED = 0.01
"""Of the training pictures, each judged without its patient's: the share that the limit refuses."""


def plane(rows: F32) -> Frontal:
    """The principal components of `features` (N, D), without a limit."""
    mean = rows.mean(0)
    _, strengths, axes = np.linalg.svd(rows - mean, full_matrices=False)
    variances = np.square(strengths) / len(rows)
    return Frontal(mean, axes[:AXES], variances[:AXES], float(variances[AXES:].sum()), np.inf)


def fitted(images: list[NDArray[np.uint8]], groups: NDArray[np.str_]) -> tuple[Frontal, F32]:
    """The plane of pictures and their mirror images, its limit by cross-validation over groups, and the distances that gave it."""
    rows = np.stack([features(image) for image in images])
    mirrored = rows.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(rows.shape)
    names = np.unique(groups)
    np.random.default_rng(0).shuffle(names)
    fold = np.array([np.flatnonzero(names == group)[0] % FOLDS for group in groups])
    apart = np.zeros(len(rows), np.float32)
    for number in range(FOLDS):
        others = fold != number
        apart[~others] = plane(np.concatenate([rows[others], mirrored[others]])).distances(rows[~others])
    whole = plane(np.concatenate([rows, mirrored]))
    return Frontal(whole.mean, whole.axes, whole.spread, whole.rest, float(np.quantile(apart, 1 - REFUSED))), apart


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description="Fit the check for frontal chest radiographs.")
    parser.add_argument("--data", type=Path, required=True, help="a folder with a sub-folder for each class, and its CSV of patients")
    parser.add_argument("--write", type=Path, required=True)
    options = parser.parse_args()
    listed = listing(options.data)
    images = [opencv().imread(str(one.path), opencv().IMREAD_GRAYSCALE) for one in listed]
    found, apart = fitted(images, np.array([one.group for one in listed]))
    mean, axes, spread = (values.astype(np.float16) for values in (found.mean, found.axes, found.spread))
    np.savez_compressed(options.write, mean=mean, axes=axes, spread=spread, rest=found.rest, limit=found.limit)
    print(f"{len(images)} pictures, limit {found.limit:.2f}, median {np.median(apart):.2f}")


if __name__ == "__main__":
    main()
