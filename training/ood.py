"""Fits what `engines.familiar` compares pictures with, and writes its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.familiar import Familiar
from engines.files import replacing, sha256
from engines.plane import Plane

AXES = 32
REFUSED = 0.01
"""Of each class's pictures that were not learned from: the share that the limit refuses at most."""
KEPT = np.float16


def fitted(features: NDArray[np.float32], truth: NDArray[np.int64]) -> Familiar:
    """Of the training pictures' pooled features (N, C) and classes (N,), without a limit."""
    kinds = np.unique(truth)
    means = np.stack([features[truth == kind].mean(0) for kind in kinds])
    centred = features - means[np.searchsorted(kinds, truth)]
    _, strengths, axes = np.linalg.svd(centred, full_matrices=False)
    variances = np.square(strengths) / len(features)
    count = max(1, min(AXES, int((variances > 1e-6 * variances[0]).sum()) - 1))
    rest = max(float(variances[count:].sum()), 1e-6 * float(variances[0]))
    kept = [np.asarray(values, KEPT).astype(np.float32) for values in (means, axes[:count], variances[:count])]
    return Familiar(tuple(Plane(mean, kept[1], kept[2], rest, np.inf) for mean in kept[0]), np.inf)


def out_of_fold(features: NDArray[np.float32], truth: NDArray[np.int64], folds: Sequence[NDArray[np.intp]]) -> NDArray[np.float32]:
    """The distance (N,) of each picture from what is fitted to the other folds; `folds` are places that together are all pictures."""
    distances = np.zeros(len(features), np.float32)
    for fold in folds:
        others = np.delete(np.arange(len(features)), fold)
        distances[fold] = fitted(features[others], truth[others]).distances(features[fold])
    return distances


def limited(found: Familiar, distances: NDArray[np.float32], truth: NDArray[np.int64], refused: float = REFUSED) -> Familiar:
    """With the lowest limit that refuses of no class more than that share, by the distances of pictures that were not learned from."""
    limits = [np.quantile(distances[truth == kind], 1 - refused, method="higher") for kind in np.unique(truth)]
    return replace(found, limit=float(max(limits)))


def write(found: Familiar, file: Path, chosen_on: str) -> dict[str, Any]:
    """The file beside the model, and the card's `familiar`."""
    first = found.planes[0]
    means, axes, spread = (values.astype(KEPT) for values in (np.stack([plane.mean for plane in found.planes]), first.axes, first.spread))
    with replacing(file) as temporary, temporary.open("wb") as out:
        np.savez_compressed(out, means=means, axes=axes, spread=spread, rest=first.rest)
    return {"file": file.name, "sha256": sha256(file), "limit": round(found.limit + 5e-4, 3), "chosen_on": chosen_on}
