"""Linear discriminants: heads in closed form."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def fitted(features: F32, truth: NDArray[np.int64], classes: int, shrinkage: float, evenness: float) -> tuple[F64, F64]:
    """Weights (F, K) and biases (K,) of the linear discriminant of `features` (N, F), so that the logits are log probabilities but for a
    constant.

    Features are standardised, and the covariance within the classes is shrunk towards the identity (J. Friedman, "Regularized discriminant
    analysis", JASA 84, 1989). `evenness`: 0, the classes are as likely as they are frequent; 1, equally likely.
    """
    middle, spread = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    spread[spread < 1e-12] = np.inf
    rows = (features - middle) / spread
    shares = np.bincount(truth, minlength=classes) / len(truth)
    means = np.stack([rows[truth == kind].mean(0) for kind in range(classes)])
    within = rows - means[truth]
    covariance = within.T @ within / len(rows)
    even = np.trace(covariance) / len(covariance)
    weights = np.linalg.solve((1 - shrinkage) * covariance + shrinkage * even * np.eye(len(covariance)), means.T)
    biases = (1 - evenness) * np.log(shares) - (means * weights.T).sum(1) / 2
    weights /= spread[:, None]
    return weights, biases - middle @ weights
