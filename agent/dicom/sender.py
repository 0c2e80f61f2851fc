"""Answers on their way to the PACS: kept until it has them, oldest first, tried again with a growing pause."""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from agent.dicom.counters import Counters
from agent.dicom.destinations import Connection, PostponedError, RejectedError, UnreachableError, connected
from agent.dicom.elements import pixels_of
from agent.dicom.reading import UnusableError
from agent.dicom.workshop import Workshop
from agent.dicom_settings import DicomDestinationSettings
from agent.rounds import Rounds
from agent.studies import DamagedStudyError, StudyError, StudyFolders, StudySpaceError, UnknownStudyError

log = logging.getLogger(__name__)

LOOK_S = 0.2
SCAN_SHARE = 20
"""The pause between two looks is at least this many times as long as listing the folders took."""
PER_CONNECTION = 100
RECEIPTS = 16
"""That are made durable together."""
REJECTIONS = 3
"""An answer that was rejected so often is put into dead/."""
DOUBLINGS = 20
POSTPONED_AT_ONCE = 3
"""So many one after the other, and the round is over."""


class Sender:
    """Watches results/, has answers built, and sends them. Without a destination an item is at its end once it has a result."""

    def __init__(
        self, settings: DicomDestinationSettings | None, ae_title: str, folders: StudyFolders, workshop: Workshop, counters: Counters
    ) -> None:
        self._settings = settings
        self._ae_title = ae_title
        self._folders = folders
        self._workshop = workshop
        self._counters = counters
        self._asked: set[str] = set()
        self._rejections: Counter[str] = Counter()
        self._postponed: Counter[str] = Counter()
        self._delivered: Counter[str] = Counter()
        """How many objects of an answer the destination has."""
        self._answered: set[str] = set()
        """Whose receipts are still to be written."""
        self._said = ""
        self._again: dict[str, float] = {}
        """From when on (monotonic) an answer that was not taken is tried again."""
        self._pause_s = 0.0
        self._not_before = 0.0
        self.trouble = ""
        """Why the destination takes nothing at present."""
        self._down_since: float | None = None
        self._rounds = Rounds("dicom-sender", self._round, LOOK_S)

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> None:
        """End after the object in hand."""
        self._rounds.stop()

    def state(self) -> dict[str, Any]:
        """none, up or down; since when (Unix s) it takes nothing, and why."""
        if self._settings is None:
            return {"state": "none", "since": None, "detail": ""}
        since = self._down_since
        return {"state": "up" if since is None else "down", "since": since, "detail": self.trouble}

    def look(self) -> float:
        """One round: what has a result, and an event that is committed, is built, what is built is sent. Returns how long listing the
        folders took, in seconds."""
        folders, started = self._folders, time.monotonic()
        waiting = folders.inbox.items()
        ready = [item for item in waiting if folders.results.holds(item) and folders.shown.holds(item)]
        now = time.monotonic()
        if self._settings is None:
            self._answered |= set(ready)
        else:
            self._send_on(waiting, ready, now)
        if self._answered:
            self._finish()
        return now - started

    def _send_on(self, waiting: list[str], ready: list[str], now: float) -> None:
        """Build what is not built, and send what is."""
        folders = self._folders
        built = [item for item in waiting if now >= self._again.get(item, 0.0) and folders.answers.holds(item)]
        self._asked &= set(ready)
        for item in ready:
            if item not in self._asked:
                self._asked.add(item)
                if not folders.answers.holds(item):
                    self._delivered.pop(item, None)
                    self._workshop.build(item)
        if built and now >= self._not_before:
            self._send(built[:PER_CONNECTION])

    def _round(self) -> float:
        try:
            share = SCAN_SHARE * self.look()
            self._said = ""
            return share
        except StudyError as error:
            if str(error) != self._said:
                log.error("%s", error)
            self._said = str(error)
        except Exception as error:  # the supervisor of sending: nothing is lost, it is tried again
            log.exception("answers cannot be sent: %s", type(error).__name__)
        return 0.0

    def _send(self, items: list[str]) -> None:
        assert self._settings
        postponed, why = 0, ""
        try:
            with connected(self._settings, self._ae_title) as connection:
                for item in items:
                    if self._rounds.stopping:
                        return
                    try:
                        self._answer(item, connection)
                        postponed = 0
                    except PostponedError as error:
                        self._postpone(item, why := str(error))
                        postponed += 1
                    if postponed == POSTPONED_AT_ONCE:
                        break
        except UnreachableError as error:
            self._unreachable(str(error))
            for item in items:
                if self._folders.answers.holds(item):  # not answered before the connection broke
                    self._give_up_if_old(item, "unreachable", str(error))
            return
        if postponed:
            self._unreachable(why)
        else:
            self._recovered()

    def _answer(self, item: str, connection: Connection) -> None:
        folders = self._folders
        try:
            header, body = folders.answers.read(item)
        except (DamagedStudyError, UnknownStudyError) as error:
            self._unreadable(item, str(error))
            return
        except StudyError as error:
            raise PostponedError(str(error)) from error
        start = 0
        try:
            with self._counters.times.stage("send"):
                for number, size in enumerate(header["sizes"]):
                    if number >= self._delivered[item]:
                        connection.send(body[start : start + size])
                        self._delivered[item] += 1
                    start += size
        except RejectedError as error:
            self._rejected(item, str(error))
            return
        self._counters.count("answered")
        self._recovered()
        self._answered.add(item)
        folders.answers.remove(item)
        with suppress(StudySpaceError):  # the next round tries again, and says so; meanwhile others are answered
            self._finish()

    def _finish(self) -> None:
        """Leave receipts in place of instances that were answered. Raises StudyError."""
        folders, items = self._folders, sorted(self._answered)
        for start in range(0, len(items), RECEIPTS):
            some = items[start : start + RECEIPTS]
            receipts = {item: self._receipt(item) for item in some if folders.inbox.holds(item)}
            folders.answered.write_all({item: (receipt, b"") for item, receipt in receipts.items()}, at=time.time(), durable=True)
            for item in some:
                folders.inbox.retire(item)
                folders.answers.remove(item)
                self._forget(item)

    def _receipt(self, item: str) -> dict[str, str]:
        try:
            return {"pixels": self._workshop.pixels.get(item) or self._folders.fingerprint(pixels_of(self._folders.instance(item).data))}
        except (UnusableError, DamagedStudyError) as error:
            log.error("%s: its receipt does not tell its pixels: %s", item, error)
            return {"pixels": ""}

    def _unreadable(self, item: str, reason: str) -> None:
        """Have it built again, from instance and result."""
        self._rejections[item] += 1
        log.error("%s: its answer cannot be read (%d of %d), and is built again: %s", item, self._rejections[item], REJECTIONS, reason)
        if self._rejections[item] >= REJECTIONS:
            self._bury(item, "storage", reason)
        else:
            self._folders.answers.remove(item)
            self._asked.discard(item)

    def _rejected(self, item: str, reason: str) -> None:
        assert self._settings
        self._rejections[item] += 1
        self._counters.count("rejected")
        log.error("%s: the destination did not take its answer (%d of %d): %s", item, self._rejections[item], REJECTIONS, reason)
        if self._rejections[item] >= REJECTIONS:
            self._bury(item, "rejected", reason)
        else:
            self._again[item] = time.monotonic() + self._settings.first_retry_s

    def _postpone(self, item: str, reason: str) -> None:
        assert self._settings
        pause_s = self._settings.first_retry_s * 2 ** min(self._postponed[item], DOUBLINGS)
        self._again[item] = time.monotonic() + min(pause_s, self._settings.longest_retry_s)
        self._postponed[item] += 1
        self._give_up_if_old(item, "rejected", reason)

    def _unreachable(self, reason: str) -> None:
        """Wait longer each time."""
        assert self._settings
        if reason != self.trouble:
            log.error("answers wait: %s", reason)
        self._down_since = self._down_since or time.time()
        self.trouble = reason
        self._counters.count("unreachable")
        self._pause_s = min(self._pause_s * 2 or self._settings.first_retry_s, self._settings.longest_retry_s)
        self._not_before = time.monotonic() + self._pause_s

    def _give_up_if_old(self, item: str, reason: str, detail: str) -> None:
        """What is too old to wait is put into dead/."""
        assert self._settings
        with suppress(UnknownStudyError):
            if time.time() - self._folders.results.written_at(item) > 3600 * self._settings.give_up_h:
                self._bury(item, reason, detail)

    def _bury(self, item: str, reason: str, detail: str) -> None:
        self._counters.count("dead")
        self._folders.bury(item, reason, detail)
        self._folders.answers.remove(item)
        self._forget(item)

    def _forget(self, item: str) -> None:
        self._asked.discard(item)
        for counted in (self._rejections, self._postponed, self._delivered):
            counted.pop(item, None)
        self._again.pop(item, None)
        self._answered.discard(item)

    def _recovered(self) -> None:
        if self.trouble:
            log.info("the destination takes answers again")
        self.trouble, self._down_since, self._pause_s, self._not_before = "", None, 0.0, 0.0
