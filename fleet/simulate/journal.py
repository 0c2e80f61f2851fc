"""What was handed to the outboxes, written down before: a second book, by which somebody else can count."""

from __future__ import annotations

import os
from pathlib import Path

NAME = "produced.txt"


class Produced:
    """A file with a line `<device> <first> <last>` for each append: the numbers `n` of its events.

    A killed simulator may not know whether the last append of a device got through. It is done again with the same keys, which the
    outbox stores once.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.last: dict[str, tuple[int, int]] = {}
        path = folder / NAME
        if path.exists():
            whole = path.read_bytes().rpartition(b"\n")
            if whole[2]:  # a line that a kill cut off was not acted upon
                os.truncate(path, len(whole[0]) + len(whole[1]))
            for line in whole[0].decode().splitlines():
                device, first, last = line.split()
                self.last[device] = (int(first), int(last))
        self._file = path.open("ab", buffering=0)

    def about_to(self, device: str, first: int, last: int) -> None:
        """These are handed over now."""
        self._file.write(f"{device} {first} {last}\n".encode())
        self.last[device] = (first, last)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
