"""What has to be looked after while years go by: certificates of the fleet's own that end, and a register that would grow for ever."""

from __future__ import annotations

import logging
import sqlite3
import time
from datetime import datetime, timedelta, timezone

from provisioning.broker import BROKER, hub_names
from provisioning.errors import FleetError
from provisioning.register import Register
from provisioning.settings import Fleet

log = logging.getLogger(__name__)

EVERY_S = 86400.0
SOON = timedelta(days=30)
CA_SOON = timedelta(days=365)
"""Before the CA's end: each device has to join the fleet that follows."""


def ending(fleet: Fleet, register: Register, now: datetime | None = None) -> list[str]:
    """A sentence, with what to do, for each certificate of CA, broker and hubs that has ended or does so soon. Raises FleetError."""
    now = now or datetime.now(timezone.utc)
    ca = fleet.certificate().not_valid_after_utc
    told = []
    if ca - now < CA_SOON:
        advice = "start another fleet (`almena fleet init --dir ANOTHER`), and let each device join that one before"
        told.append(f"the CA's certificate {_ends(ca, now)}: {advice}")
    folder = fleet.settings.broker.folder or "DIR"
    for name in (BROKER, *hub_names(fleet.settings.broker.hubs)):
        known = register.newest(name)
        ends = datetime.fromtimestamp(known.ends_at, timezone.utc) if known else None
        if ends and ends - now < SOON:
            whose, then = ("the broker", "start the broker anew") if name == BROKER else (name, "give the hub its new file")
            told.append(f"the certificate of {whose} {_ends(ends, now)}: run `almena fleet broker-config {folder}`, and {then}")
    return told


def _ends(at: datetime, now: datetime) -> str:
    return f"{'ended' if at <= now else 'ends'} on {at:%Y-%m-%d}"


class Upkeep:
    """Of a process that runs for years."""

    def __init__(self, fleet: Fleet, register: Register) -> None:
        self._fleet = fleet
        self._register = register
        self._next = 0.0

    def look(self) -> None:
        """Called now and then: once a day the log says what ends soon, and what ended long ago leaves the register."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + EVERY_S
        try:
            for text in ending(self._fleet, self._register):
                log.warning("%s", text)
            if count := self._register.prune():
                log.info("%d certificates that ended long ago left the register", count)
        except (sqlite3.Error, FleetError) as error:
            log.error("the fleet's certificates are not looked after today: %s", error)
