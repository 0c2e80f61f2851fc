"""Engines in whose place others can be put while they are used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from engines.base import Engine, T, Tensor, Writer


@dataclass(slots=True)
class _Held:
    """`holders`: the place where the engine stands, and each call that uses it; the last one closes it."""

    engine: Engine
    holders: int = 1


class Exchangeable(Engine):
    """An engine that another one of the same inputs and outputs can replace. Calls under way end on the old one, which is closed then."""

    def __init__(self, engine: Engine) -> None:
        self._lock = threading.Lock()
        self._held = _Held(engine)
        self._describe(engine)

    def exchange(self, engine: Engine) -> None:
        """Put `engine` in the place of the present one; further calls go to it."""
        with self._lock:
            old, self._held = self._held, _Held(engine)
            self._describe(engine)
        self._release(old)

    def read(self, tensors: Mapping[str, Tensor | Writer], reader: Callable[[Mapping[str, Tensor]], T], picked: Collection[str] = ()) -> T:
        """As every engine's."""
        held = self._hold()
        try:
            return held.engine.read(tensors, reader, picked)
        finally:
            self._release(held)

    def _read(self, tensors: Mapping[str, Tensor], reader: Callable[[Mapping[str, Tensor]], T]) -> T:
        return self.read(tensors, reader)

    def device_seconds(self, tensors: Mapping[str, Tensor]) -> float | None:
        """As the present engine tells."""
        held = self._hold()
        try:
            return held.engine.device_seconds(tensors)
        finally:
            self._release(held)

    def close(self) -> None:
        """Close the present engine."""
        self._held.engine.close()

    def _describe(self, engine: Engine) -> None:
        self.name, self.backend, self.precision, self.parallel = engine.name, engine.backend, engine.precision, engine.parallel
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def _hold(self) -> _Held:
        with self._lock:
            self._held.holders += 1
            return self._held

    def _release(self, held: _Held) -> None:
        with self._lock:
            held.holders -= 1
            last = not held.holders
        if last:
            held.engine.close()
