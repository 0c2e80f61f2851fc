"""A folder of images: what is there, and what arrives, each once and none lost.

It is scanned instead of watched by inotify, which network shares do not have.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import secrets
import stat
import threading
import time
from collections import deque
from pathlib import Path
from typing import Literal

from pydantic import Field

from agent.clock import LATEST
from agent.config import AnyPath, Config
from agent.datatypes import Frame
from agent.errors import ItemError, SourceError
from agent.vision.base import Source
from agent.vision.pictures import PictureError, decode, require_size

log = logging.getLogger(__name__)

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
REASON, LONGEST_NAME = ".reason.txt", 255
"""Bytes of a file's name, on all usual file systems."""
SCAN_SHARE = 20
"""The pause between two scans is at least this many times as long as a scan took: a huge folder costs 5 % of a core at most."""
Stamp = tuple[int, int, int]
"""Size, modification time in nanoseconds, and inode: another file, or other content, has another stamp."""


class FolderConfig(Config):
    """A folder of images."""

    type: Literal["folder"] = "folder"
    path: AnyPath = Field(description="The folder; its sub-folders are left alone.")
    watch: bool = Field(True, description="Wait for more images; `false` ends after those that are there.")
    after: Literal["move", "delete", "keep"] = Field(
        "move",
        description="What becomes of an image once its events are stored: moved to done/, deleted, or kept (and read again at a start). "
        "A bad image is moved to failed/ with the reason beside it, except with `keep`.",
    )
    settle_s: float = Field(1.0, ge=0, le=3600, description="An image is read when it has not changed for this long.")
    period_s: float = Field(0.5, gt=0, le=3600, description="Time between two looks into the folder.")


class FolderSource(Source):
    """Images in the order of their names, as they are complete. An item is named by the SHA-256 of its content."""

    Config = FolderConfig
    config: FolderConfig

    def __init__(self, config: FolderConfig, stream: str) -> None:
        super().__init__(config, stream)
        self._index = 0
        self._ready: deque[tuple[Path, Stamp]] = deque()
        self._taken: dict[Path, Stamp] = {}
        """Images that were given out and are still in the folder."""
        self._items: dict[str, deque[Path]] = {}
        """Where the images of an item lie that are neither done nor failed; more than one if their content is the same."""
        self._unsettled: dict[Path, tuple[Stamp, float]] = {}
        """Images that may still grow, with the monotonic time since when they have not."""
        self._marking = threading.Lock()
        self._told_of_time = False
        self._interrupted = threading.Event()

    @property
    def finite(self) -> bool:
        return True

    def open(self) -> None:
        self._scan()

    def read(self) -> Frame | None:
        while True:
            started = time.monotonic()
            if not self._ready:
                self._scan()
            pause_s = max(self.config.period_s, SCAN_SHARE * (time.monotonic() - started))
            while self._ready:
                frame = self._load(*self._ready.popleft())
                if frame is not None:
                    return frame
            if not self.config.watch and not self._unsettled:
                return None
            if self._interrupted.wait(pause_s):
                return None

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        self._ready.clear()

    def done(self, item: str) -> None:
        path = self._release(item)
        if path is None or self.config.after == "keep":
            return
        if self.config.after == "delete":
            path.unlink(missing_ok=True)
        else:
            _move(path, self.config.path / "done")

    def failed(self, item: str, reason: str) -> None:
        path = self._release(item)
        if path is None or self.config.after == "keep":
            return
        target = _move(path, self.config.path / "failed")
        name = _cut(target.name, LONGEST_NAME - len(REASON)) + REASON
        target.with_name(name).write_text(reason + "\n", encoding="utf-8", errors="backslashreplace")

    def _scan(self) -> None:
        """Queue the images that are complete and were not given out."""
        try:
            found = _images(self.config.path)
        except FileNotFoundError:
            raise SourceError("STREAM_NOT_FOUND", f"there is no folder {self.config.path}; make it, or mount it") from None
        except OSError as error:
            raise SourceError("STREAM_LOST", f"{self.config.path} cannot be read: {error.strerror}") from None
        with self._marking:
            pending = {path for paths in self._items.values() for path in paths}
            self._taken = {path: stamp for path, stamp in self._taken.items() if path in found or path in pending}
            fresh = {path: stamp for path, stamp in found.items() if path not in pending and self._taken.get(path) != stamp}
        self._ready = deque(sorted(self._settled(fresh)))

    def _settled(self, fresh: dict[Path, Stamp]) -> list[tuple[Path, Stamp]]:
        """Those of `fresh` that have not changed for long enough, by their own time stamp or as seen from here."""
        now, clock = time.monotonic(), time.time()
        complete, unsettled = [], {}
        for path, stamp in fresh.items():
            before, since = self._unsettled.get(path, (stamp, now))
            since = since if before == stamp else now
            if clock - stamp[1] / 1e9 >= self.config.settle_s or now - since >= self.config.settle_s:
                complete.append((path, stamp))
            else:
                unsettled[path] = (stamp, since)
        self._unsettled = unsettled
        return complete

    def _load(self, path: Path, stamp: Stamp) -> Frame | None:
        """The image as a frame; None if it is gone. Raises ItemError if it is bad."""
        try:
            with path.open("rb") as file:
                stamp = _stamp(os.fstat(file.fileno()))
                require_size(stamp[0])
                data = file.read()
        except FileNotFoundError:
            log.warning("%s: %s was taken away before it was read", self.stream, path)
            return None
        except OSError as error:
            item = f"unreadable {path.name}"
            self._register(item, path, stamp)
            raise ItemError(item, f"{path.name}: cannot be read: {error.strerror}") from None
        except PictureError as error:
            item = f"unusable {path.name}"
            self._register(item, path, stamp)
            raise ItemError(item, f"{path.name}: {error}") from None
        item = hashlib.sha256(data).hexdigest()
        self._register(item, path, stamp)
        try:
            image = decode(data)
        except PictureError as error:
            raise ItemError(item, f"{path.name}: {error}") from None
        frame = Frame(image, self.stream, self._index, self._captured_at(path, stamp), time.monotonic_ns(), item=item)
        self._index += 1
        return frame

    def _captured_at(self, path: Path, stamp: Stamp) -> float:
        """When the file was written, by its time stamp; now, where that lies before 1970 or beyond the year 9999."""
        at = stamp[1] / 1e9
        if 0 <= at <= LATEST:
            return at
        if not self._told_of_time:
            log.warning("%s: %s has an impossible time, %.0f s since 1970: such pictures count as of now", self.stream, path, at)
            self._told_of_time = True
        return time.time()

    def _register(self, item: str, path: Path, stamp: Stamp) -> None:
        with self._marking:
            self._taken[path] = stamp
            self._items.setdefault(item, deque()).append(path)

    def _release(self, item: str) -> Path | None:
        """The file that was read as `item`; None if it was replaced meanwhile: then it is another image, and waits for its turn."""
        with self._marking:
            paths = self._items.get(item)
            if not paths:
                return None
            path = paths.popleft()
            if not paths:
                del self._items[item]
            try:
                return path if _stamp(path.stat()) == self._taken[path] else None
            except FileNotFoundError:
                return None


def _stamp(status: os.stat_result) -> Stamp:
    return (status.st_size, status.st_mtime_ns, status.st_ino)


def _images(folder: Path) -> dict[Path, Stamp]:
    """The images in `folder`. Raises OSError if it cannot be read."""
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if path.suffix.lower() in SUFFIXES and not entry.name.startswith("."):
                status = _status(path)
                if status is not None and stat.S_ISREG(status.st_mode):
                    found[path] = _stamp(status)
    return found


def _status(path: Path) -> os.stat_result | None:
    """None for what is gone, and for a link that leads nowhere or in a circle: one such entry must not stop the folder."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise


def _move(path: Path, folder: Path) -> Path:
    """Move into `folder`; another file of that name there keeps it, and this one's gets a random part: it may be the same file again."""
    folder.mkdir(exist_ok=True)
    target = folder / path.name
    if target.exists():
        ending = f"-{secrets.token_hex(6)}{path.suffix}"
        target = folder / (_cut(path.stem, LONGEST_NAME - len(REASON) - len(os.fsencode(ending))) + ending)
    os.replace(path, target)
    return target


def _cut(name: str, longest: int) -> str:
    """Of its bytes, `longest` at most."""
    return os.fsdecode(os.fsencode(name)[:longest])
