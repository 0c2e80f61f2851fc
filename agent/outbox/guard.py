"""Files beside the database: the lock that recovery takes, and the space kept for loss records."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RESERVE_BYTES = 1024 * 1024


class Gate:
    """Many may write, one may replace the database: a lock between processes (and, by its owner's care, threads)."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        self.threads = threading.RLock()
        """Held by the thread that is inside."""

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Nobody replaces the database within."""
        with self._hold(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process and no other thread is inside the gate."""
        with self._hold(fcntl.LOCK_EX):
            yield

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    @contextmanager
    def _hold(self, kind: int) -> Iterator[None]:
        with self.threads:
            fcntl.flock(self._fd, kind)
            try:
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)


class Reserve:
    """Disk space that is given up when the disk is full, so that the loss can be written down."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def present(self) -> bool:
        """False while the disk is full."""
        return self._path.exists()

    def ensure(self) -> None:
        """Have it, or raise OSError: then the disk is still full."""
        if self.present():
            return
        part = self._path.with_suffix(".part")
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
        except OSError:
            os.ftruncate(fd, 0)
            raise
        finally:
            os.close(fd)
        part.replace(self._path)

    def release(self) -> bool:
        """Give it up; True if there was any."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True


def sync_folder(folder: Path) -> None:
    """Make new and renamed files of `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
