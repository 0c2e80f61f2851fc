"""Forgetting a device: how it is and was, what it measured, was told and wanted. What it saw and lost stays as long as of any other."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Engine, delete, select

from agent import wire
from agent.errors import UnknownError
from fleet import journal
from fleet.desired import ConflictError
from fleet.identities import ledger
from fleet.link import Link
from fleet.store import device_rows, queries, spools, sql
from fleet.store.database import writing
from fleet.store.tables import alerts, commands, devices, maintenance, removed, replies, rollups, samples

AT_ONCE = 5000
SPEAKS = ("online", "stale")


def remove(engine: Engine, link: Link, by: str, device: str) -> None:
    """What it measured goes first, in slices, so that others may write meanwhile; called again, it goes on where it was cut off.

    Raises UnknownError; ConflictError while the device speaks, and where its desired settings cannot be taken back from the broker.
    """
    now = time.time()
    with engine.connect() as connection:
        wanted = select(queries.presence(now).label("state"), devices.c.desired_revision).where(devices.c.device == device)
        found = connection.execute(wanted).first()
    if found is None:
        raise UnknownError(f"there is no device {device}")
    if found.state in SPEAKS:
        advice = "stop it, or revoke its certificate, and wait until it is offline"
        raise ConflictError(f"{device} is {found.state}, and would be back at once: {advice}")
    if found.desired_revision is not None and not link.publish(wire.TOPICS["desired"].of(device), b"", retain=True):
        raise ConflictError(f"the broker, which keeps the desired settings of {device}, cannot be reached: try again")
    for table in (rollups, samples):
        while _slice(engine, table, device):
            pass
    with writing(engine) as connection:
        device_rows.hold(connection, device)
        ledger.leave(connection, device, now)
        spools.give_up(connection, device, now)  # of who has this name next, nothing of this one is missing
        for table in (rollups, samples, replies, commands, alerts, devices):
            connection.execute(delete(table).where(table.c.device == device))
        connection.execute(delete(maintenance).where(maintenance.c.kind == "device", maintenance.c.name == device))
        kept = sql.insert(connection, removed).values(device=device, at=now)
        connection.execute(kept.on_conflict_do_update(index_elements=["device"], set_={"at": now}))
        journal.note(connection, by, "device remove", device, at=now)


def _slice(engine: Engine, table: Any, device: str) -> bool:
    """Whether there may be more."""
    key = list(table.primary_key)
    with writing(engine) as connection:
        some = select(*key).where(table.c.device == device).limit(AT_ONCE)
        return connection.execute(delete(table).where(sql.among(key, some))).rowcount == AT_ONCE
