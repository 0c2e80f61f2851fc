"""What it takes to erase somebody from this device: gallery, history of events, live pictures, and word to the hub."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial

from agent import wire
from agent.audit import record
from agent.clock import Clock
from agent.outbox import Outbox
from agent.rounds import Rounds
from agent.settings import Settings
from agent.vision.face_kit import open_gallery, open_kits
from agent.vision.gallery import LEFT, Gallery, Receipt
from agent.vision.gallery_store import GalleryError

log = logging.getLogger(__name__)

TICK_S = 1.0
SETTLE_S = 5.0
"""After so long nothing that was under way at an erasure can still tell of the person."""


def erase(gallery: Gallery, outbox: Outbox, identity: str, reason: str = "requested") -> tuple[Receipt, int]:
    """Erase an identity and blank it in the history; also how many events held it. It may be repeated.

    Raises UnknownIdentityError. GalleryError or OutboxError: it is erased, but traces are left, which the vision process goes on to remove.
    """
    receipt = gallery.erase(identity, reason)
    try:
        return receipt, outbox.erase(identity)
    finally:
        gallery.scrub()


class Housekeeping:
    """A thread that hides and erases what has expired, and sees to it that everything follows an erasure, whoever made it and whatever
    was interrupted. Needs neither models nor frames. `forget` makes live pictures forget the names in them."""

    def __init__(self, settings: Settings, outbox: Outbox, forget: Callable[[], None], clock: Clock | None = None) -> None:
        self._settings = settings
        self._outbox = outbox
        self._forget = forget
        self._clock = clock or Clock()
        self._gallery: Gallery | None = None
        self._due: dict[str, float] = {}
        self._troubles: dict[str, str] = {}
        self._rounds = Rounds("housekeeping", self.tick, TICK_S)

    def start(self) -> None:
        """Begin at once."""
        self._rounds.start()

    def stop(self) -> None:
        """End the thread; what is not finished is found again at the next start."""
        self._rounds.stop()
        if self._gallery is not None:
            self._gallery.close()

    def tick(self) -> None:
        """One round."""
        for kit in open_kits():
            with closing(kit):
                self._guarded("the gallery's changes cannot be followed", kit.refresh)
        if (self._settings.gallery_dir / "gallery.sqlite").exists():
            self._guarded("the gallery cannot be looked through", self._look_through)

    def _look_through(self) -> None:
        gallery = self._gallery = self._gallery or open_gallery(self._settings)
        gallery.clusters.expire(self._clock.wall())
        if not self._settings.shares_identities:
            self._guarded("what other devices shared is not erased yet", partial(self._leave, gallery))
        self._guarded("who has expired is hidden, but not erased", partial(self._expire, gallery))
        for receipt in gallery.receipts(unfollowed=True):
            self._guarded(f"the erasure {receipt.id} is not finished", partial(self._follow, gallery, receipt))

    def _expire(self, gallery: Gallery) -> None:
        now = self._clock.wall()
        if self._clock.synchronised():
            gallery.expire(now)
        elif gallery.over(now):
            raise GalleryError("the clock is not synchronised")

    def _leave(self, gallery: Gallery) -> None:
        """A device that no longer shares keeps nothing that others have shared with it."""
        for identity in gallery.exchange.held:
            gallery.erase(identity, LEFT)

    def _follow(self, gallery: Gallery, receipt: Receipt) -> None:
        """At once, and once more when nothing is under way any more; then it is on record, which tells the hub."""
        now = time.monotonic()
        if now < self._due.get(receipt.id, 0.0):
            return
        last = receipt.id in self._due
        self._due[receipt.id] = now + SETTLE_S
        self._forget()
        self._outbox.erase(receipt.identity)
        gallery.scrub()
        if last:
            detail = {"id": receipt.identity, "receipt": receipt.id, "reason": receipt.reason}
            action = "identity leave" if receipt.reason == LEFT else wire.IDENTITY_ERASE  # the hub blanks only whom it must never see again
            record(self._outbox, "device", action, "done", detail)
            gallery.follow(receipt.id)
            del self._due[receipt.id]

    def _guarded(self, what: str, step: Callable[[], None]) -> None:
        """Trouble is told when it changes; the next round tries again."""
        try:
            step()
            trouble = ""
        except Exception as error:  # noqa: BLE001 - a supervisor: whatever one step meets must not keep the others from being done
            trouble = f"{type(error).__name__}: {error}"
        if trouble and trouble != self._troubles.get(what):
            log.error("%s, and is tried again: %s", what, trouble)
        self._troubles[what] = trouble
