"""From a classifier's probabilities to its answer."""

from __future__ import annotations

from collections.abc import Sequence

from engines.card import ModelCard


def answer(
    card: ModelCard, probabilities: Sequence[float], threshold: float | None = None, holding: str | None = None, margin: float = 0.0
) -> str:
    """The label that one picture's probabilities, in the order of the card's labels, stand for.

    It is the positive class from its threshold on (`threshold`, or else the card's), below it the likeliest of the others; without a
    threshold the likeliest of all. An answer that is `holding` is given up only where another one is ahead of it by `margin`.
    """
    scores = [score + margin * (label == holding) for label, score in zip(card.labels, probabilities, strict=True)]
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    limit = threshold or card.thresholds.score
    if card.positive is None or limit is None:
        return card.labels[order[0]]
    place = card.labels.index(card.positive)
    if scores[place] >= limit + margin * (holding not in (None, card.positive)):
        return card.positive
    return next(card.labels[other] for other in order if other != place)
