"""A detector's engines of other input sizes: opened at their first use, closed when others take their place."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engines.base import Engine
from engines.decoders.base import DetectionDecoder

KEPT = 4
"""Engines that stay loaded."""

Size = tuple[int, int]


@dataclass(slots=True)
class _Kept:
    """`holders`: the shelf, as long as the engine stands there, and each call that uses it."""

    engine: Engine
    decoder: DetectionDecoder
    holders: int = 1

    def release(self) -> None:
        """One holder less; the last one closes it."""
        self.holders -= 1
        if not self.holders:
            self.engine.close()


class Shelf:
    """Engines by input size (width, height); `opened` makes one with its decoder. Thread-safe."""

    def __init__(self, opened: Callable[[Size], tuple[Engine, DetectionDecoder]]) -> None:
        self._opened = opened
        self._lock = threading.Lock()
        self._kept: OrderedDict[Size, _Kept] = OrderedDict()

    @contextmanager
    def using(self, size: Size) -> Iterator[tuple[Engine, DetectionDecoder]]:
        """The engine of that size and its decoder, which stay open within. Raises EngineError where it cannot be opened."""
        with self._lock:
            if size not in self._kept:
                self._kept[size] = _Kept(*self._opened(size))
            one = self._kept[size]
            one.holders += 1
            self._kept.move_to_end(size)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)[1].release()
        try:
            yield one.engine, one.decoder
        finally:
            with self._lock:
                one.release()

    def clear(self) -> None:
        """Keep none of them; those in use are closed by their last user."""
        with self._lock:
            while self._kept:
                self._kept.popitem()[1].release()

    def close(self) -> None:
        """Close all engines, also those in use."""
        with self._lock:
            for one in self._kept.values():
                one.engine.close()
            self._kept.clear()
