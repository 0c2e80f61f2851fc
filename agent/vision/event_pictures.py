"""Pictures of faces for the hub, from their event until the hub has them. Only where the settings allow it: `hub.pictures`.

event is stored ─► offer ─► thread: cut the face out, encode, encrypt ─► a file for each ─► uplink fetches it, the hub has it ─► deleted

None of it holds an event up. A picture that cannot be kept, or that nobody fetches in time, is lost, which is counted.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.datatypes import Event, Frame
from agent.errors import AlmenaError, UnknownError
from agent.outbox import Outbox
from agent.settings import MEBIBYTE, Settings
from agent.vault import Vault, VaultKeyError, load_key
from agent.vision.gallery_pictures import keepsake
from engines.files import replacing

log = logging.getLogger(__name__)

WAITING = 8
"""Frames whose pictures are still to be cut out; beyond them a picture is lost rather than memory."""
MOST_BYTES = 64 * MEBIBYTE
MOST_AGE_S = 7 * 86400.0
LISTED = 100
NAME = re.compile(r"([0-9a-f]{1,32})-(\d{1,19})\.sealed")

Offered = tuple[Frame, Event, int]


class EventPictures:
    """`offer` may be called from any thread, and never waits."""

    def __init__(self, settings: Settings, outbox: Outbox) -> None:
        self.folder = settings.state_dir / "event-pictures"
        self._settings = settings
        self._outbox = outbox
        self._vault: Vault | None = None
        self._lock = threading.Lock()
        self._offered: queue.Queue[Offered | None] = queue.Queue(WAITING)
        self._lost = 0
        self._told = ""
        self._era = 0
        """Grows with every `forget`."""
        self._thread = threading.Thread(target=self._run, name="event-pictures", daemon=True)

    @staticmethod
    def allowed(settings: Settings) -> bool:
        """Whether the device's owner wants it."""
        return settings.hub is not None and settings.hub.pictures

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End after what was offered."""
        try:
            self._offered.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def offer(self, frame: Frame, events: Sequence[Event], numbers: Sequence[int]) -> None:
        """Events of a frame, and the numbers under which the outbox has them; those that show no face are left out."""
        if frame.about is not None:
            return
        for event, number in zip(events, numbers, strict=True):
            if event.data.get("box") is None or event.data.get("type") == "end":
                continue
            try:
                self._offered.put_nowait((frame, event, number))
            except queue.Full:
                self._lose(1, "more faces than pictures can be made of")

    def forget(self) -> None:
        """Somebody is erased: no picture that waits is sent, whomever it shows. None of them counts as lost."""
        with self._lock:
            self._era += 1
            for path in self._files():
                path.unlink(missing_ok=True)

    def state(self) -> dict[str, Any]:
        """The ids of events whose pictures wait, the oldest first and LISTED at most; `waiting` and `lost` in numbers, since the start."""
        with self._lock:
            files = self._files()
            return {"events": [_id_of(path) for path in files[:LISTED]], "waiting": len(files), "lost": self._lost}

    def picture(self, spool: str, seq: int) -> bytes:
        """A JPEG. Raises UnknownError, VaultKeyError."""
        path = self.folder / f"{spool}-{seq}.sealed"
        if not NAME.fullmatch(path.name):
            raise UnknownError(path.name)
        try:
            return self._key().unseal(path.read_bytes(), path.name)
        except OSError as error:
            raise UnknownError(path.name) from error
        except VaultKeyError:
            self.settle(spool, seq, lost=True)
            raise

    def settle(self, spool: str, seq: int, *, lost: bool) -> None:
        """The hub has the picture, or will never take it."""
        path = self.folder / f"{spool}-{seq}.sealed"
        if NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)
        if lost:
            self._lose(1, "the hub does not take it, or it cannot be read")

    def _run(self) -> None:
        while (offered := self._offered.get()) is not None:
            try:
                self._keep(*offered)
            except Exception as error:  # noqa: BLE001 - a supervisor: one picture must not keep the others from being made
                self._lose(1, str(error) if isinstance(error, AlmenaError) else f"{type(error).__name__}: {error}")

    def _keep(self, frame: Frame, event: Event, number: int) -> None:
        era = self._era
        found = self._outbox.history(after_seq=number - 1, limit=1)
        spool, seq = found[0]["id"].split("/")[1:] if found else ("", "")
        if seq != str(number):
            raise AlmenaError("its event is no longer here")
        jpeg = keepsake(frame.image, np.asarray(event.data["box"], np.float32))
        path = self.folder / f"{spool}-{seq}.sealed"
        sealed = self._key().seal(jpeg, path.name)
        with self._lock:
            if era != self._era:
                return
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(path, durable=False) as part:
                part.write_bytes(sealed)
            self._evict()
        self._told = ""

    def _evict(self) -> None:
        """What is too old, and the oldest where they are too many bytes."""
        files = [(path, path.stat()) for path in self._files()]
        size, now = sum(found.st_size for _, found in files), time.time()
        for path, found in files:
            if size <= MOST_BYTES and found.st_mtime > now - MOST_AGE_S:
                break
            path.unlink(missing_ok=True)
            size -= found.st_size
            self._lose(1, "nobody has fetched it in time")

    def _files(self) -> list[Path]:
        """By the numbers of their events, which grow also from one spool to the next."""
        found = [path for path in self.folder.glob("*.sealed") if NAME.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.stem.partition("-")[2]))

    def _key(self) -> Vault:
        if self._vault is None:
            folder = self._settings.gallery_dir
            key_file = self._settings.gallery.key_file or folder / "key"
            self._vault = Vault(load_key(key_file, not (folder / "gallery.sqlite").exists(), "gallery"))
        return self._vault

    def _lose(self, count: int, reason: str) -> None:
        self._lost += count
        if reason != self._told:
            log.warning("a picture for the hub is lost: %s", reason)
        self._told = reason


def _id_of(path: Path) -> str:
    spool, _, seq = path.stem.partition("-")
    return f"{spool}/{seq}"
