"""How well a classifier tells pictures apart, how far its probabilities can be believed, and where it decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.verification import Interval, roc_auc, wilson

F64 = NDArray[np.float64]
Places = NDArray[np.int64]

BINS = 15
ROUNDS = 1000
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True, slots=True)
class Share:
    """A share, what it is of, and its interval at 95 %: Wilson's, or of the bootstrap over pictures where it is no plain share.

    `value` and `interval` are None where there is nothing that it would be a share of.
    """

    value: float | None
    interval: Interval | None
    right: int | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Of one class: precision of its answers, recall of its pictures, and their harmonic mean."""

    pictures: int
    precision: Share
    recall: Share
    f1: Share


@dataclass(frozen=True, slots=True)
class Confusion:
    """counts[truth][answer] of pictures, both in the order of `labels`."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    rows: str = "truth"
    columns: str = "answer"


@dataclass(frozen=True, slots=True)
class PositiveFigures:
    """Of the declared positive class against all others. A picture is called positive from the probability `threshold` on; None: where
    no class is likelier.

    sensitivity: positives that are called positive, of all positives. specificity: others that are not, of all others.
    """

    label: str
    threshold: float | None
    true_positive: int
    false_negative: int
    false_positive: int
    true_negative: int
    sensitivity: Share
    specificity: Share
    roc_auc: Share


@dataclass(frozen=True, slots=True)
class ClassifierReport:
    """All figures of a classifier on a labelled set.

    pairs: by two labels, of the pictures of those two classes alone: how many are told apart by the larger of the two probabilities.
    calibration_error: expected calibration error of the likeliest class, in 15 bins of equal width (Guo et al., ICML 2017).
    """

    pictures: int
    accuracy: Share
    classes: dict[str, ClassFigures]
    confusion: Confusion
    pairs: dict[str, Share]
    positive: PositiveFigures | None
    calibration_error: Share


def report(
    probabilities: F64, truth: Places, labels: Sequence[str], positive: str | None = None, threshold: float | None = None
) -> ClassifierReport:
    """Figures from probabilities (N, L) and the places (N,) of the true labels.

    `threshold`: from which probability on a picture is called positive; None: where the positive class is the likeliest.
    """
    answers = probabilities.argmax(1)
    places = range(len(labels))
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (truth, answers), 1)
    return ClassifierReport(
        pictures=len(truth),
        accuracy=share(int((answers == truth).sum()), len(truth)),
        classes={labels[place]: _class_figures(answers, truth, place) for place in places},
        confusion=Confusion(tuple(labels), tuple(tuple(row) for row in counts.tolist())),
        pairs={
            f"{labels[one]}, {labels[other]}": _told_apart(probabilities, truth, one, other)
            for one in places for other in places if one < other
        },
        positive=None if positive is None else positive_figures(probabilities, truth, tuple(labels), positive, threshold),
        calibration_error=_resampled(lambda drawn: calibration_error(probabilities[drawn], truth[drawn]), len(truth)),
    )  # fmt: skip


NO_ANSWER = "no answer"


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What is decided, instead of what is likeliest: by the rule, with the threshold of the positive class, and with abstentions.

    abstained: pictures without an answer, by reason. answered: of all pictures. accuracy: of the answered ones. right: of all, where no
    answer is not right. confusion has a last column for no answer. sensitivity: positives that are called positive, of all positives;
    specificity: others that are not, of all others (no answer is not called positive); None without a positive class.
    """

    rule: str
    threshold: float | None
    abstained: dict[str, int]
    answered: Share
    accuracy: Share
    right: Share
    confusion: Confusion
    sensitivity: Share | None
    specificity: Share | None


def decided(
    rule: str,
    answers: Sequence[str],
    reasons: Sequence[str],
    truth: Places,
    labels: Sequence[str],
    positive: str | None,
    threshold: float | None,
) -> OperatingPoint:
    """Figures from one answer a picture, "" where there is none for a reason."""
    places = np.array([labels.index(said) if said else len(labels) for said in answers], np.int64)
    counts = np.zeros((len(labels), len(labels) + 1), np.int64)
    np.add.at(counts, (truth, places), 1)
    told, right = int((places < len(labels)).sum()), int((places == truth).sum())
    sensitivity = specificity = None
    if positive is not None:
        true, called = truth == labels.index(positive), places == labels.index(positive)
        sensitivity = share(int((called & true).sum()), int(true.sum()))
        specificity = share(int((~called & ~true).sum()), int((~true).sum()))
    return OperatingPoint(
        rule=rule,
        threshold=threshold,
        abstained={reason: reasons.count(reason) for reason in sorted(set(reasons) - {""})},
        answered=share(told, len(truth)),
        accuracy=share(right, told),
        right=share(right, len(truth)),
        confusion=Confusion((*labels, NO_ANSWER), tuple(tuple(row) for row in counts.tolist())),
        sensitivity=sensitivity,
        specificity=specificity,
    )


def share(right: int, count: int) -> Share:
    """With Wilson's interval."""
    return Share(right / count, wilson(right, count), right, count) if count else Share(None, None, right, count)


def _class_figures(answers: Places, truth: Places, place: int) -> ClassFigures:
    hits = int(((answers == place) & (truth == place)).sum())
    return ClassFigures(
        pictures=int((truth == place).sum()),
        precision=share(hits, int((answers == place).sum())),
        recall=share(hits, int((truth == place).sum())),
        f1=_resampled(lambda drawn: _f1(answers[drawn] == place, truth[drawn] == place), len(truth)),
    )


def _f1(said: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """0 where the class neither occurs nor is named."""
    return float(2 * (said & true).sum() / max(said.sum() + true.sum(), 1))


def _told_apart(probabilities: F64, truth: Places, one: int, other: int) -> Share:
    among = (truth == one) | (truth == other)
    chosen = np.where(probabilities[among, one] >= probabilities[among, other], one, other)
    return share(int((chosen == truth[among]).sum()), int(among.sum()))


def positive_figures(probabilities: F64, truth: Places, labels: tuple[str, ...], positive: str, threshold: float | None) -> PositiveFigures:
    """Sensitivity, specificity and ROC AUC of the class `positive` against all others."""
    place = labels.index(positive)
    true, scores = truth == place, probabilities[:, place]
    called = probabilities.argmax(1) == place if threshold is None else scores >= threshold
    hits, misses = int((called & true).sum()), int((~called & true).sum())
    alarms, passed = int((called & ~true).sum()), int((~called & ~true).sum())
    area = Share(None, None)
    if true.any() and not true.all():
        strata = np.flatnonzero(true), np.flatnonzero(~true)
        area = _resampled(lambda drawn: roc_auc(-scores[drawn], true[drawn]), len(truth), strata)
    return PositiveFigures(
        label=positive,
        threshold=threshold,
        true_positive=hits,
        false_negative=misses,
        false_positive=alarms,
        true_negative=passed,
        sensitivity=share(hits, hits + misses),
        specificity=share(passed, passed + alarms),
        roc_auc=area,
    )


def _resampled(figure: Callable[[Places], float], count: int, strata: tuple[Places, ...] | None = None) -> Share:
    """A figure of all pictures with its percentile interval over pictures drawn with replacement (Efron 1979), from each stratum apart."""
    random = np.random.default_rng(0)
    parts = strata or (np.arange(count),)
    drawn = [figure(np.concatenate([random.choice(part, len(part)) for part in parts])) for _ in range(ROUNDS)]
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return Share(figure(np.arange(count)), (low, high))


def calibration_error(probabilities: F64, truth: Places, bins: int = BINS) -> float:
    """How far the likeliest class's probability is from how often it is right, on average over the pictures, in bins of equal width."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == truth
    held = np.minimum((sure * bins).astype(np.int64), bins - 1)
    apart = np.bincount(held, right, bins) - np.bincount(held, sure, bins)
    return float(np.abs(apart).sum() / len(truth))


def softmax(logits: F64, temperature: float = 1.0) -> F64:
    """Probabilities (N, L) of logits (N, L)."""
    powers = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    return np.asarray(powers / powers.sum(1, keepdims=True), np.float64)


def fitted_temperature(logits: F64, truth: Places) -> float:
    """What the logits must be divided by so that the truth is the least surprising (Guo et al., ICML 2017): by bisection.

    The mean log-likelihood is concave in the inverse of the temperature; its derivative there is the mean of the true class's logit less
    the expected one.
    """
    own = logits[np.arange(len(truth)), truth]
    low, high = 1 / MOST_TEMPERATURE, 1 / LEAST_TEMPERATURE
    for _ in range(60):
        middle = (low + high) / 2
        expected = (softmax(logits, 1 / middle) * logits).sum(1)
        low, high = (middle, high) if float((own - expected).mean()) > 0 else (low, middle)
    return 2 / (low + high)


def operating_point(scores: F64, positive: NDArray[np.bool_], sensitivity: float) -> float:
    """The highest threshold at which at least that share of the positives is called positive: `scores` (N,) from it on.

    It lies halfway to the next lower score, so that it does not hang on one picture's last digit.
    """
    own = np.sort(scores[positive])[::-1]
    needed = int(np.ceil(sensitivity * len(own) - 1e-9))
    last = own[max(needed, 1) - 1]
    below = scores[scores < last]
    return float((last + (below.max() if len(below) else 0.0)) / 2)
