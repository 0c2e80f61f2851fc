"""What a training has reached, on disk after every epoch: a killed one goes on from there and sees the same epochs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.files import replacing
from training.errors import TrainingError

Arrays = list[NDArray[Any]]
FILE = "state.npz"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training pictures. Losses are cross-entropies in nats; `rate` is that of its last step."""

    epoch: int
    loss: float
    validation_loss: float
    validation_accuracy: float
    rate: float
    seconds: float


@dataclass(slots=True)
class State:
    """`variables`: of network and optimiser, all that the next step depends on; `average`: the averaged weights; `best`: those of the
    epoch with the lowest validation loss.
    """

    variables: Arrays
    average: Arrays
    best: Arrays
    history: list[Epoch] = field(default_factory=list)
    batch: int = 0
    finished: bool = False

    @property
    def best_epoch(self) -> Epoch:
        """The one that `best` is of."""
        return min(self.history, key=lambda one: one.validation_loss)


def save(state: State, folder: Path, key: str) -> None:
    """Replace what is kept in `folder`. `key` stands for recipe and data: another training does not go on from it."""
    lists = {"variables": state.variables, "average": state.average, "best": state.best}
    arrays = {f"{name}/{place:04}": array for name, given in lists.items() for place, array in enumerate(given)}
    about = {"key": key, "history": [asdict(one) for one in state.history], "batch": state.batch, "finished": state.finished}
    with replacing(folder / FILE) as temporary, temporary.open("wb") as file:
        np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), allow_pickle=False, **arrays)


def load(folder: Path, key: str) -> State | None:
    """What is kept in `folder`; None where nothing is. Raises TrainingError where it is of another recipe or other data, or damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            about = json.loads(bytes(kept["about"]).decode())
            lists = {name: _list(kept, name) for name in ("variables", "average", "best")}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise TrainingError(f"{path} is damaged: {error}; delete it, and the training starts anew") from error
    if about["key"] != key:
        raise TrainingError(f"{folder} holds a training of another recipe or other pictures; give another folder, or delete it")
    return State(history=[Epoch(**one) for one in about["history"]], batch=about["batch"], finished=about["finished"], **lists)


def _list(kept: Any, name: str) -> Arrays:
    return [kept[entry] for entry in sorted(entry for entry in kept.files if entry.startswith(f"{name}/"))]


def averaged(average: Sequence[NDArray[Any]], weights: Sequence[NDArray[Any]], keep: float, step: int) -> Arrays:
    """The exponential average after step number `step`, from 0; the first steps are soon forgotten."""
    keep = min(keep, (1 + step) / (10 + step))
    return [keep * old + (1 - keep) * new for old, new in zip(average, weights, strict=True)]


def merged(states: Sequence[State]) -> Arrays:
    """The one network whose logits are the mean over those of `states`, which differ in their linear heads alone."""
    return [np.mean(arrays, axis=0) for arrays in zip(*(one.best for one in states), strict=True)]


def seconds_left(history: Sequence[Epoch], epochs: int) -> float:
    """What is left of `epochs`, at the pace of the last five."""
    recent = [one.seconds for one in history[-5:]]
    return (epochs - len(history)) * sum(recent) / len(recent) if recent else 0.0
