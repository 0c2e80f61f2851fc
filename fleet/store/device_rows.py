"""What devices say of themselves: births and wills, reported states, replies; and the lock on a device."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from agent import wire
from fleet.store import sql, tables
from fleet.store.batch import Batch, Message, clean

devices = tables.devices

ENGINES = 32
ENGINE_LETTERS = 120


def leave_removed(connection: Connection, batch: Batch) -> None:
    """Take out of `batch` what the broker has kept of devices that somebody has removed. One that speaks again is a device as any other."""
    silent = {device for device, at in batch.seen.items() if at is None} - {row.device for row in batch.rows}
    if not silent:
        return
    gone = tables.removed.c.device
    there = select(devices.c.device).where(devices.c.device == gone).exists()
    for device in connection.execute(select(gone).where(gone.in_(silent), ~there)).scalars():
        del batch.seen[device]
        batch.reported.pop(device, None)
        batch.statuses = [said for said in batch.statuses if said[0] != device]


def lock(connection: Connection, seen: dict[str, float | None]) -> None:
    """Make the rows of these devices, note when each was heard, and keep other hubs from them until the transaction ends."""
    statement = sql.insert(connection, devices)
    heard = func.coalesce(statement.excluded.seen_at, devices.c.seen_at)
    upsert = statement.on_conflict_do_update(index_elements=["device"], set_={"seen_at": heard})
    sql.run(connection, upsert, [{"device": device, "seen_at": at} for device, at in sorted(seen.items())])


def hold(connection: Connection, device: str) -> None:
    """Keep hubs from this device until the transaction ends, and wait for one that has it; of several devices in order."""
    connection.execute(select(devices.c.device).where(devices.c.device == device).with_for_update())


def take(connection: Connection, batch: Batch) -> None:
    """What is neither a row nor refused."""
    for device, said, message in batch.statuses:
        _status(connection, device, said, message)
    for device, (state, message) in batch.reported.items():
        told: dict[str, Any] = {"reported": message.payload, "reported_revision": state.revision, "reported_at": message.received_at}
        values = {**told, "engines": _engines(state.state)}
        connection.execute(update(devices).where(devices.c.device == device).values(values))
    for device, command, reply, message in batch.replies:
        _reply(connection, device, command, reply, message)


def count_losses(connection: Connection, losses: dict[str, int]) -> None:
    """Add to what each device has lost. Never below 0: of one that was removed and is back, what was lost before may come all the same."""
    statement = update(devices).where(devices.c.device == bindparam("name"))
    statement = statement.values(losses=sql.greater(connection, devices.c.losses + bindparam("more"), 0))
    sql.run(connection, statement, [{"name": device, "more": more} for device, more in sorted(losses.items()) if more])


def _engines(state: Any) -> list[str]:
    """A line for each engine that a device reports: model, backend, precision."""
    reported = state.get("engines") if isinstance(state, dict) else None
    engines = [one for one in reported if isinstance(one, dict)] if isinstance(reported, list) else []
    lines = (" ".join(str(one[name]) for name in ("model", "backend", "precision") if one.get(name)) for one in engines[:ENGINES])
    return [clean(line, ENGINE_LETTERS) for line in lines]


def _status(connection: Connection, device: str, said: wire.Birth | wire.Will, message: Message) -> None:
    """A will of another session than the current birth's changes nothing."""
    statement, session = update(devices).where(devices.c.device == device), clean(said.session)
    values: dict[str, Any] = {"state": said.state, "session": session, "status": message.payload, "status_at": message.received_at}
    if isinstance(said, wire.Will):
        connection.execute(statement.where(devices.c.session.in_((session, ""))).values(values))
        return
    if message.retained:  # what the broker has kept says nothing new, if it is known
        statement = statement.where((devices.c.session != session) | (devices.c.state != said.state))
    values |= {"boot_id": clean(said.boot_id), "agent": clean(said.agent), "models": said.models, "lease_s": said.lease_s}
    connection.execute(statement.values(values))


def _reply(connection: Connection, device: str, command: str, said: wire.Reply, message: Message) -> None:
    """The first reply to a command counts."""
    commands = tables.commands
    kept = {"device": device, "id": command, "payload": message.payload, "received_at": message.received_at}
    connection.execute(sql.insert(connection, tables.replies).values(kept).on_conflict_do_nothing())
    answer = {"ok": said.ok, "code": said.code, "detail": said.detail, "result": said.result}
    own = (commands.c.id == command, commands.c.device == device, commands.c.state.in_(("queued", "sent", "expired")))
    values = {"state": "done" if said.ok else "failed", "reply": answer, "reply_at": message.received_at}
    connection.execute(update(commands).where(*own).values(values))
