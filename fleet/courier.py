"""Takes commands and desired settings from the store to the broker.

Whoever asks for them only writes rows; here they are published, and again if the broker is not there, until a command has expired.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, and_, insert, select, update

from agent import wire
from agent.errors import UnknownError
from fleet import journal
from fleet.duty import Duty
from fleet.link import Link
from fleet.store.database import writing
from fleet.store.tables import commands, devices

log = logging.getLogger(__name__)

PERIOD_S = 1.0
PAGE = 200
ANSWER_S = 10.0
"""A reply may be on its way for so long after its command has expired."""


class Courier(Duty):
    """One thread."""

    def __init__(self, engine: Engine, link: Link) -> None:
        super().__init__(engine, "courier", PERIOD_S, self._deliver)
        self._link = link

    def _deliver(self, now: float) -> None:
        with writing(self._engine) as connection:
            over = (commands.c.state == "queued") & (commands.c.expires_at < now)
            silent = (commands.c.state == "sent") & (commands.c.expires_at < now - ANSWER_S)
            connection.execute(update(commands).where(over | silent).values(state="expired"))
        if self._link.connected:
            self._commands()
            self._desired()

    def _commands(self) -> None:
        queued = select(commands).where(commands.c.state == "queued").order_by(commands.c.at).limit(PAGE)
        with self._engine.connect() as connection:
            waiting = connection.execute(queued).all()
        for row in waiting:
            became: dict[str, Any] = {"state": "sent"}
            try:
                payload = _message(row._mapping)
            except wire.WireError as error:  # an earlier version took it
                log.error("command %s of %s: %s", row.id, row.device, error)
                became = {"state": "failed", "args": None, "reply": {"ok": False, "code": "not-sent", "detail": str(error)}}
            else:
                if not self._link.publish(wire.TOPICS["command"].of(row.device, name=row.name), payload):
                    return
            with writing(self._engine) as connection:  # its reply may be quicker
                connection.execute(update(commands).where(commands.c.id == row.id, commands.c.state == "queued").values(became))

    def _desired(self) -> None:
        unsent = devices.c.desired_revision.is_distinct_from(devices.c.desired_sent)
        columns = (devices.c.device, devices.c.desired, devices.c.desired_revision)
        with self._engine.connect() as connection:
            waiting = connection.execute(select(*columns).where(unsent).limit(PAGE)).all()
        for device, payload, revision in waiting:
            if not self._link.publish(wire.TOPICS["desired"].of(device), payload or b"", retain=True):
                return
            with writing(self._engine) as connection:
                connection.execute(
                    update(devices)
                    .where(and_(devices.c.device == device, devices.c.desired_revision.is_not_distinct_from(revision)))
                    .values(desired_sent=revision)
                )


def order(connection: Connection, by: str, device: str, name: str, args: Mapping[str, Any], now: float, holds_s: float) -> str:
    """Write a command down for a device, and who gave it; returns its id. Raises UnknownError, WireError."""
    known(connection, device)
    command = f"c-{secrets.token_hex(8)}"
    wire.TOPICS["command"].of(device, name=name)
    row = {"id": command, "device": device, "name": name, "args": dict(args), "by": by, "at": now, "expires_at": now + holds_s}
    _message(row)
    connection.execute(insert(commands).values({**row, "state": "queued"}))
    journal.note(connection, by, f"command {name}", device, {"id": command, "args": sorted(args)}, now)
    return command


def _message(row: Mapping[Any, Any]) -> bytes:
    """What is published. Raises WireError."""
    reply_to = wire.TOPICS["reply"].of(row["device"], id=row["id"])
    said = {name: row[name] for name in ("id", "name", "expires_at")}
    return wire.encode(wire.Command(**said, args=row["args"] or {}, reply_to=reply_to))


def known(connection: Connection, device: str) -> None:
    """Raises UnknownError for a device that never spoke."""
    if connection.execute(select(devices.c.device).where(devices.c.device == device)).first() is None:
        raise UnknownError(f"there is no device {device}")
