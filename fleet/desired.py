"""The settings that the hub wants a device to have: checked against the agent's own schema, compared, and kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, select, update

from agent import wire
from agent.config import ELSEWHERE
from agent.errors import AlmenaError, UnknownError
from agent.remote import secrets
from agent.remote_settings import REMOTE
from agent.settings import dotted, parse
from fleet import journal
from fleet.store.tables import devices


class ConflictError(AlmenaError):
    """Somebody else has changed it meanwhile."""


def problems(state: Mapping[str, Any]) -> list[str]:
    """What is wrong with desired settings, a line each; empty where a device of this version could take them."""
    found = [f"{name}: this section is decided on the device; the hub may want {', '.join(REMOTE)}" for name in state if name not in REMOTE]
    settings, wrong = parse({name: value for name, value in state.items() if name in REMOTE}, dict(ELSEWHERE))
    found += [f"{dotted(place)}{message}" for place, message in wrong]
    for place in secrets(settings) if settings else ():
        found.append(f"{place}: a password does not travel over the broker; put it on the device as password_file")
    if len(json.dumps(state)) > wire.MAX_PAYLOAD // 2:
        found.append("this is too large for a message")
    return found


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`path`, `before` and `after` of every value that differs; null stands for none."""
    before, after = dict(_flat(old)), dict(_flat(new))
    paths = [*after, *(path for path in before if path not in after)]
    return [{"path": path, "before": before.get(path), "after": after.get(path)} for path in paths if before.get(path) != after.get(path)]


def wanted(connection: Connection, device: str) -> dict[str, Any]:
    """What is wanted of a device, and what it reported. Raises UnknownError."""
    names = ("desired", "desired_revision", "desired_sent", "desired_by", "desired_at", "reported", "reported_at")
    row = connection.execute(select(*(devices.c[name] for name in names)).where(devices.c.device == device)).first()
    if row is None:
        raise UnknownError(f"there is no device {device}")
    reported = json.loads(row.reported) if row.reported else {}
    return {
        "state": (json.loads(row.desired)["state"] or None) if row.desired else None,
        "revision": row.desired_revision,
        "by": row.desired_by,
        "at": row.desired_at,
        "sent": row.desired_sent == row.desired_revision,
        "reported": reported.get("state"),
        "reported_revision": reported.get("revision"),
        "reported_at": row.reported_at,
        "outcome": outcome(row.desired_revision, reported),
        "errors": reported.get("errors", []),
    }


def outcome(revision: int | None, reported: Mapping[str, Any]) -> str | None:
    """What became of a revision by what the device reports: `applied`, `trying`, `refused`, or `waiting`; None where there is none."""
    if revision is None:
        return None
    said = {"applied": "revision", "trying": "trying", "refused": "refused"}
    return next((word for word, field in said.items() if reported.get(field) == revision), "waiting")


def want(connection: Connection, by: str, device: str, state: Mapping[str, Any] | None, now: float, newest: int | None) -> int:
    """Keep desired settings, which have no `problems`, for a device, to be sent; None takes them back. Returns their revision.

    What takes them back is a revision that wants nothing: a device that is away would not hear of a retained message that is no more.
    Raises UnknownError; ConflictError where `newest` is given and is not the newest revision.
    """
    before = wanted(connection, device)
    if newest is not None and before["revision"] != newest:
        raise ConflictError(f"revision {before['revision']} is there by now, from {before['by']}; look at it and try again")
    revision: int = max(before["revision"] or 0, before["reported_revision"] or 0) + 1  # the store may be older than what the device has
    payload = wire.encode(wire.Desired(revision=revision, state=dict(state or {})))
    values = {"desired": payload, "desired_revision": revision, "desired_by": by, "desired_at": now}
    connection.execute(update(devices).where(devices.c.device == device).values(values))
    paths = [change["path"] for change in changes(before["state"] or {}, state or {})]
    journal.note(connection, by, "desired", device, {"revision": revision, "paths": paths[:100]}, now)
    return revision


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{path}[{number}]")
    elif path:
        yield path, value
