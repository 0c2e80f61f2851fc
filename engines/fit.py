"""Whether a card's decoder fits its task and the engine's outputs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from pydantic import ValidationError

from engines.base import Engine
from engines.card import ModelCard
from engines.errors import ModelFileError
from engines.parity import Judge, Parity
from engines.registry import DECODERS, resolve


def decoder_params(card: ModelCard) -> Any:
    """The decoder's parameters as its class has them. Raises ModelFileError where they or the decoder do not fit the card."""
    kind = resolve(DECODERS, card.decoder.name, "decoder")
    if kind.task != card.task:
        raise ModelFileError(f"{card.name}: the decoder {card.decoder.name} is for {kind.task}, not for {card.task}; correct the card")
    try:
        return kind.Params(**card.decoder.params)
    except ValidationError as error:
        wrong = "; ".join(f"decoder.params.{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ModelFileError(f"{card.name}: {wrong}; correct the card") from error


def require_fit(card: ModelCard, engine: Engine) -> None:
    """Raise ModelFileError unless the engine has the outputs that the decoder reads, as fractions and a row for each picture of its batch,
    and a classifier as many classes as labels. Of several pictures the engine is run once: files say little of what a batch becomes."""
    params, shapes = decoder_params(card), {spec.name: spec.shape for spec in engine.outputs}
    if missing := set(params.outputs) - shapes.keys():
        has = ", ".join(f"{name!r} {list(shape)}" for name, shape in shapes.items())
        raise ModelFileError(
            f"{card.name}: the card's decoder reads output {min(missing)!r}, and the model has {has}; correct decoder.params"
        )
    for spec in engine.outputs:
        if spec.name in params.outputs and "float" not in spec.dtype:
            raise ModelFileError(
                f"{card.name}: output {spec.name!r} holds {spec.dtype} numbers, not scores; export the model without what makes whole"
                " numbers of them, as ArgMax does"
            )
    _require_rows(card, engine, params.outputs)
    if card.task != "classification" or None in shapes[params.output][1:]:
        return
    classes = 1
    for size in shapes[params.output][1:]:
        classes *= size or 1
    if classes != len(card.labels) and (classes, len(card.labels)) != (1, 2):
        raise ModelFileError(
            f"{card.name}: output {params.output!r} has {classes} classes, and the card {len(card.labels)} labels; list them in its order"
        )
    if params.maps and (len(shapes[params.maps]) != 4 or shapes[params.maps][1] not in (None, len(card.labels))):
        raise ModelFileError(
            f"{card.name}: output {params.maps!r} is {list(shapes[params.maps])}, not (N, {len(card.labels)}, h, w): it holds no map for"
            " each label; correct decoder.params.maps"
        )


def _require_rows(card: ModelCard, engine: Engine, names: Collection[str]) -> None:
    picture = engine.inputs[0]
    if picture.shape[0] in (None, 1):
        return
    blank = np.zeros([size or 1 for size in picture.shape], picture.dtype)
    rows = engine.read({picture.name: blank}, lambda outputs: {name: len(outputs[name]) for name in names}, names)
    for name, count in rows.items():
        if count != picture.shape[0]:
            raise ModelFileError(
                f"{card.name}: output {name!r} has {count} row(s) for {picture.shape[0]} pictures: the model was exported for one at a time"
                " (a Reshape to a fixed batch, as x.view(1, …) leaves it); export it with a free batch, or run it with a batch of 1"
            )


def fitting(card: ModelCard, judge: Judge) -> Judge:
    """The same judge, for engines whose outputs the card describes."""

    def judged(reference: Engine, candidate: Engine) -> Parity:
        require_fit(card, reference)
        return judge(reference, candidate)

    return judged
