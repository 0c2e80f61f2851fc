"""Takes pictures to the hub's door: those of events, once the hub has the event, and snapshots that somebody asks for."""

from __future__ import annotations

import logging
import secrets
import time
from typing import Any
from urllib.parse import quote, urlencode

from agent.backoff import Backoff
from agent.errors import UsageError
from agent.rounds import Rounds
from agent.uplink.door import Door, DoorError, DoorRefusedError
from agent.uplink.status import UplinkStatus
from agent.uplink.vision_link import VisionError, VisionLink, VisionRefusedError

log = logging.getLogger(__name__)

PERIOD_S = 2.0
JPEG = "image/jpeg"
TOO_EARLY = 425
"""The hub does not have the event yet (RFC 8470)."""
MOST_EARLY = 5
"""In one round: they are sent whole each time."""
FINAL = (410, 413, 422)
"""Answers that concern this one picture: the event is gone, the picture is too large or none. Any other no may be of another server."""
LARGEST_SNAPSHOT = 8 * 1024 * 1024


class Pictures:
    """A thread. What waits is kept, encrypted, by the vision process; it is deleted there once the hub has it."""

    def __init__(self, door: Door, vision: VisionLink, status: UplinkStatus, period_s: float = PERIOD_S) -> None:
        self._door = door
        self._vision = vision
        self._status = status
        self._backoff = Backoff(base_s=2 * period_s, cap_s=300.0)
        self._attempt = 0
        self._early: set[str] = set()
        self._rounds = Rounds("pictures", self._look, period_s)

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> None:
        """End after the picture in hand."""
        self._rounds.stop()

    def snapshot(self, stream: str) -> dict[str, Any]:
        """Take a picture of a stream now. Raises VisionError, DoorError, UsageError."""
        found = self._vision.picture(f"/streams/{quote(stream, safe='')}/snapshot.jpg")
        picture = found[0] if found else b""
        if not 0 < len(picture) <= LARGEST_SNAPSHOT:
            raise UsageError(f"the picture has {len(picture)} bytes; at most {LARGEST_SNAPSHOT} are sent")
        name = f"s-{secrets.token_hex(8)}"
        self._door.put(f"/snapshots/{name}?{urlencode({'stream': stream, 'at': time.time()})}", picture, JPEG)
        return {"snapshot": name, "stream": stream, "bytes": len(picture)}

    def _look(self) -> float | None:
        """One round; seconds to wait longer than usual after a failure."""
        try:
            state = self._vision.get("/pictures")
            self._status.pictures_waiting, self._status.pictures_lost = state["waiting"], state["lost"]
            early = self._take_all(state["events"])
        except VisionError as error:
            log.debug("no pictures from the vision process: %s", error)
            return None
        except DoorError as error:
            self._tell(str(error))
            self._attempt += 1
            return self._backoff.delay(self._attempt)
        self._tell("")
        self._attempt = self._attempt + 1 if early else 0
        return self._backoff.delay(self._attempt) if early else None

    def _take_all(self, events: list[str]) -> bool:
        """Whether some came too early. They go last the next time, so that they do not hold up the others."""
        self._early &= set(events)
        missed = 0
        for event in sorted(events, key=self._early.__contains__):
            if self._rounds.stopping or missed == MOST_EARLY:
                break
            if self._take(event):
                self._early.discard(event)
            else:
                self._early.add(event)
                missed += 1
        return missed > 0

    def _take(self, event: str) -> bool:
        """False where it comes too early. Raises DoorError where the door is away; VisionError."""
        place = f"/pictures/{event}"
        try:
            found = self._vision.picture(place)
            if found:
                self._door.put(f"/events/{event}/picture", found[0], JPEG)
            self._vision.delete(place)
        except VisionRefusedError:
            pass  # dropped meanwhile
        except DoorRefusedError as error:
            if error.status not in FINAL:
                raise
            log.warning("the hub does not take the picture of an event: %s", error)
            self._vision.delete(f"{place}?outcome=lost")
        except DoorError as error:
            if error.status != TOO_EARLY:
                raise
            return False
        return True

    def _tell(self, trouble: str) -> None:
        if trouble and not self._status.door_trouble:
            log.warning("pictures do not reach the hub, which is tried again: %s", trouble)
        self._status.door_trouble = trouble
