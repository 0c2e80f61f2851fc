"""Shared identities for people: who is known where, what waits, what was erased."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, func, or_, select

from agent.errors import UnknownError
from agent.sharing.protocol import SignedReceipt
from fleet.store.tables import devices, identities, identity_copies, sharing_keys, sharing_sites

copies = identity_copies


def identities_of(
    connection: Connection, search: str, site: str | None, device: str | None, state: str | None, limit: int, after: int
) -> list[dict[str, Any]]:
    """A page of them."""
    waiting = select(copies.c.identity).where(copies.c.receipt.is_(None))
    condition = {
        "shared": identities.c.erase_at.is_(None),
        "erasing": identities.c.erase_at.is_not(None) & identities.c.id.in_(waiting),
        "erased": identities.c.erase_at.is_not(None) & identities.c.id.not_in(waiting),
        None: identities.c.id != "",
    }[state]
    if search:
        like = f"%{search.lower().translate({ord(sign): chr(92) + sign for sign in '%_' + chr(92)})}%"
        condition &= or_(func.lower(identities.c.name).like(like, escape="\\"), identities.c.id == search)
    if site is not None:
        condition &= identities.c.site == site
    if device is not None:
        condition &= identities.c.id.in_(select(copies.c.identity).where(copies.c.device == device))
    return _where(connection, condition, limit, after)


def identity(connection: Connection, identity: str) -> dict[str, Any]:
    """One of them. Raises UnknownError."""
    found = _where(connection, identities.c.id == identity, 1)
    if not found:
        raise UnknownError(f"there is no shared identity {identity}")
    return found[0]


def sites(connection: Connection) -> list[dict[str, Any]]:
    """Every site that has a name, whether its devices share, and which of them could."""
    enabled = {row.site: row for row in connection.execute(select(sharing_sites))}
    named = set(connection.execute(select(devices.c.site).where(devices.c.site != "").distinct()).scalars()) | enabled.keys()
    members = defaultdict(list)
    for device, site in connection.execute(
        select(devices.c.device, devices.c.site).join(sharing_keys, sharing_keys.c.device == devices.c.device).order_by(devices.c.device)
    ):
        members[site].append(device)
    found = []
    for site in sorted(named):
        row = enabled.get(site)
        found.append(
            {"site": site, "enabled": row is not None, "by": row.by if row else "", "at": row.at if row else None, "devices": members[site]}
        )
    return found


def _where(connection: Connection, condition: ColumnElement[bool], limit: int, after: int = 0) -> list[dict[str, Any]]:
    """With their copies, by name; erased ones, which have none, last."""
    order = (identities.c.erase_at.is_not(None), func.lower(identities.c.name), identities.c.erase_at.desc(), identities.c.id)
    rows = connection.execute(select(identities).where(condition).order_by(*order).limit(limit).offset(after)).mappings().all()
    found: dict[str, list[RowMapping]] = defaultdict(list)
    ids = [row["id"] for row in rows]
    columns = [column for column in copies.columns if column is not copies.c.box]
    for copy in connection.execute(select(*columns).where(copies.c.identity.in_(ids)).order_by(copies.c.device)).mappings():
        found[copy["identity"]].append(copy)
    return [_record(row, found[row["id"]]) for row in rows]


def _record(row: RowMapping, of_it: Sequence[RowMapping]) -> dict[str, Any]:
    done = row["erase_at"] is not None and all(copy["receipt"] for copy in of_it)
    state = "shared" if row["erase_at"] is None else "erased" if done else "erasing"
    return {**row, "state": state, "copies": [_copy(row, copy) for copy in of_it]}


def _copy(row: RowMapping, copy: RowMapping) -> dict[str, Any]:
    found = {"device": copy["device"], "detail": copy["declined"], "receipt": None, "proof": None, "certificate": None}
    if copy["receipt"]:
        signed = SignedReceipt.model_validate_json(copy["receipt"])
        proof = {"receipt": signed.receipt.model_dump(), "proof": signed.signed.proof, "certificate": signed.signed.certificate}
        return {**found, "state": "erased", "since": copy["receipt_at"], **proof}
    if row["erase_at"] is not None:
        return {**found, "state": "erasing", "since": row["erase_at"]}
    if copy["declined"]:
        return {**found, "state": "declined", "since": copy["box_at"]}
    if copy["revision"] == row["revision"]:
        return {**found, "state": "there", "since": copy["box_at"]}
    sealed = copy["box_revision"] == row["revision"]
    return {
        **found,
        "state": "waiting to be fetched" if sealed else "waiting to be sealed",
        "since": copy["box_at"] if sealed else row["at"],
    }
