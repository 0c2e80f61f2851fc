"""Files beside the database: the lock that recovery takes, and the space kept for loss records."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

RESERVE_BYTES = 1024 * 1024
FILE_MODE = 0o660
FOLDER_MODE = 0o770


class Gate:
    """Many may write, one may replace the database: a lock between processes (and, by its owner's care, threads)."""

    def __init__(self, path: Path) -> None:
        make_private(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
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
        fd, part = tempfile.mkstemp(prefix=f"{self._path.name}.", suffix=".part", dir=self._path.parent)
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
            os.fchmod(fd, FILE_MODE)
            os.replace(part, self._path)
        except OSError:
            os.unlink(part)
            raise
        finally:
            os.close(fd)

    def release(self) -> bool:
        """Give it up; True if there was any."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True


def make_private(path: Path, mode: int = FILE_MODE) -> None:
    """Make the file if there is none, for its owner (and group) alone whatever the umask is; root makes it for whom the folder belongs to.

    Raises OSError for what is no file: several services may write in the folder of the outbox, and one of them could have another, or root,
    open or change what a link leads to. Opens no file that is there: closing it would drop the locks that SQLite has on it, and another
    process would then delete the log that is in use.
    """
    with suppress(FileExistsError):
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            if os.geteuid() == 0:
                folder = path.parent.stat()
                os.fchown(made, folder.st_uid, folder.st_gid)
        finally:
            os.close(made)
    for one in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(one.lstat().st_mode):
                raise OSError(errno.ELOOP, "not a file of its own, and no link is followed here", str(one))
    restrict(path, mode)


def restrict(path: Path, mode: int) -> None:
    """Give the path these rights. A folder that has them, and hands down its group beside, as an installation makes it, stays so.

    Raises OSError for a link that somebody else has made, but root.
    """
    link = path.lstat()
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in (0, os.geteuid()):
        raise OSError(errno.ELOOP, "a link of somebody else, which is not followed", str(path))
    follow = os.O_NOFOLLOW if stat.S_ISREG(link.st_mode) else 0
    number = os.open(path, os.O_PATH | os.O_CLOEXEC | follow)  # as such it can be closed without a loss of SQLite's locks
    try:
        if os.fstat(number).st_mode & 0o777 != mode:
            os.chmod(f"/proc/self/fd/{number}", mode)
    except PermissionError:
        logger.warning("%s belongs to somebody else and its mode is not %o: others may read names in it", path, mode)
    finally:
        os.close(number)


def sync_folder(folder: Path) -> None:
    """Make new and renamed files of `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
