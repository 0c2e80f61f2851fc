"""An engine that is replaced while it is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engines.base import Engine, T, Tensor, TensorSpec
from engines.errors import EngineError
from engines.exchange import Exchangeable

pytestmark = pytest.mark.unit

PICTURE = {"image": np.zeros((1, 2), np.uint8)}


class Slow(Engine):
    """Answers with its number once it may."""

    backend, parallel = "none", 1
    inputs, outputs = (TensorSpec("image", "uint8", (1, 2)),), (TensorSpec("y", "float32", (1,)),)

    def __init__(self, number: float, precision: str = "fp32") -> None:
        self.name, self.precision, self.number = "slow", precision, number
        self.begun, self.may = threading.Event(), threading.Event()
        self.closed = 0

    def _read(self, tensors: Mapping[str, Tensor], reader: Callable[[Mapping[str, Tensor]], T]) -> T:
        if self.closed:
            raise EngineError("the engine is closed")
        self.begun.set()
        assert self.may.wait(60)
        return reader({"y": np.array([self.number], np.float32)})

    def close(self) -> None:
        self.closed += 1


def test_a_call_under_way_ends_on_the_old_engine_and_the_next_one_goes_to_the_new() -> None:
    old, new = Slow(1.0), Slow(2.0, "int8")
    new.may.set()
    engine = Exchangeable(old)
    with ThreadPoolExecutor(1) as callers:
        first = callers.submit(engine.infer, PICTURE)
        assert old.begun.wait(60)
        engine.exchange(new)
        assert engine.infer(PICTURE)["y"] == 2.0
        assert engine.precision == "int8"
        assert old.closed == 0
        old.may.set()
        assert first.result(60)["y"] == 1.0
    assert (old.closed, new.closed) == (1, 0)
    engine.close()
    assert new.closed == 1


def test_an_engine_that_nobody_uses_is_closed_at_once() -> None:
    old = Slow(1.0)
    Exchangeable(old).exchange(Slow(2.0))
    assert old.closed == 1
