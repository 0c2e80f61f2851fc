"""Photographs with a known number of faces, composed from the two public-domain portraits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from agent.sample_clip import COLLINS, HEIGHT, HOPPER, WIDTH, cut_out, paste, room

PLACES = ((0.28, 0.72), (0.25, 0.75), (0.3, 0.7))


class Photographer:
    """Takes pictures of nobody, one or two persons; every picture differs from every other."""

    def __init__(self, portraits: Mapping[str, Path]) -> None:
        self._people = [
            cut_out(cv2.imread(str(portraits[name])), outlines) for name, outlines in (("astronaut", COLLINS), ("grace-hopper", HOPPER))
        ]

    def take(self, number: int, persons: int, path: Path) -> None:
        """Write picture `number` (JPEG) with so many persons (0 to 2), complete at once."""
        chance = np.random.default_rng(number)
        canvas = room()
        for who in range(persons):
            x = PLACES[number % len(PLACES)][who] if persons == 2 else 0.5
            paste(canvas, *self._people[who if persons == 2 else number % 2], x * WIDTH, float(chance.uniform(0.7, 0.95)) * HEIGHT, 1.0)
        canvas = np.clip(canvas + chance.normal(0, 2, canvas.shape), 0, 255).astype(np.uint8)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(cv2.imencode(".jpg", canvas)[1].tobytes())
        partial.replace(path)


class Album:
    """Photographs in a watched folder, so that the number of faces in it is known. `persons` says how many each shows, in turn."""

    def __init__(self, inbox: Path, portraits: Mapping[str, Path], persons: Sequence[int] = (1,)) -> None:
        self.inbox = inbox
        self.taken = self.faces = 0
        self._persons = persons
        self._photographer = Photographer(portraits)

    def take(self, count: int = 1) -> None:
        """So many more."""
        for _ in range(count):
            persons = self._persons[self.taken % len(self._persons)]
            self._photographer.take(self.taken, persons, self.inbox / f"{self.taken:05d}.jpg")
            self.taken, self.faces = self.taken + 1, self.faces + persons

    def processed(self) -> int:
        """How many have left the folder."""
        return self.taken - len(list(self.inbox.glob("[0-9]*.jpg")))
