"""Files that are written over instead of made anew: blocks and pages that are there cost a fraction of new ones."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from agent.outbox.guard import sync_folder

LARGEST = 16 * 1024 * 1024
MOST = 128 * 1024 * 1024
"""Bytes of one spare, and of all in a folder."""


class Spares:
    """Those of one folder, as hidden files `….part`. Threads may share it.

    A file is written over only once its old name is durably gone: no loss of power brings an old name back with something else in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._renamed: dict[str, int] = {}
        self._ready: dict[str, int] = {}

    def give(self, path: str) -> None:
        """Take a file from its place, and keep it for `take` unless that is too much. Nothing if it is not there."""
        with suppress(FileNotFoundError):
            size = os.stat(path).st_size
            with self._lock:
                held = sum(self._renamed.values()) + sum(self._ready.values())
            if size > LARGEST or held + size > MOST:
                os.unlink(path)
                return
            spare = self._new()
            os.replace(path, spare)
            with self._lock:
                self._renamed[spare] = size

    def take(self) -> str:
        """A file to write over, or the name of a new one."""
        with self._lock:
            return self._ready.popitem()[0] if self._ready else self._new()

    def sync(self) -> None:
        """Make the names in the folder durable. Raises OSError."""
        with self._lock:
            renamed, self._renamed = self._renamed, {}
        sync_folder(self._folder)
        with self._lock:
            self._ready |= renamed

    def _new(self) -> str:
        return f"{self._folder}/.{os.urandom(8).hex()}.part"
