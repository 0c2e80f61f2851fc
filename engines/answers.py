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


def to_spare(card: ModelCard, probabilities: Sequence[float], threshold: float) -> float:
    """How much a score would have to change for another answer, of a card with a positive class and that threshold for it.

    The positive class's score counts as what it would be if the threshold were one half (odds multiplied by a constant: C. Elkan, "The
    foundations of cost-sensitive learning", IJCAI 2001): otherwise no score would be far from a threshold near 0.
    """
    assert card.positive is not None
    scores, decision = dict(zip(card.labels, probabilities, strict=True)), answer(card, probabilities, threshold)
    score = scores[card.positive]
    for_it, against = score * (1 - threshold), threshold * (1 - score)
    spare = abs(for_it / (for_it + against) - 0.5)
    if decision == card.positive:
        return spare
    others = [score for label, score in scores.items() if label not in (decision, card.positive)]
    return min([spare, *(scores[decision] - score for score in others)])
