"""Files that are written over instead of made anew: blocks and pages that are there cost a fraction of new ones."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from agent.outbox.guard import sync_folder

MOST = 8
LARGEST = 16 * 1024 * 1024


class Spares:
    """Those of one folder, as hidden files `….part`. Threads may share it.

    A file is written over only once its old name is durably gone: no loss of power brings an old name back with something else in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._renamed: list[str] = []
        self._ready: list[str] = []

    def give(self, path: str) -> None:
        """Take a file from its place, and keep it for `take` if it is not too large and there are few. Nothing if it is not there."""
        with suppress(FileNotFoundError):
            if os.stat(path).st_size > LARGEST or len(self._renamed) + len(self._ready) >= MOST:
                os.unlink(path)
                return
            spare = self._new()
            os.replace(path, spare)
            with self._lock:
                self._renamed.append(spare)

    def take(self) -> str:
        """A file to write over, or the name of a new one."""
        with self._lock:
            return self._ready.pop() if self._ready else self._new()

    def sync(self) -> None:
        """Make the names in the folder durable. Raises OSError."""
        with self._lock:
            renamed, self._renamed = self._renamed, []
        sync_folder(self._folder)
        with self._lock:
            self._ready += renamed

    def _new(self) -> str:
        return f"{self._folder}/.{os.urandom(8).hex()}.part"
