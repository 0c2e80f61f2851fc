"""What devices say of shared identities, and what each has to do: rows in, duties out. All within a transaction of the caller's."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, insert, not_, select, union, update

from agent.errors import AlmenaError, UnknownError
from agent.sharing.protocol import MOST_IDENTITIES, Box, Duties, Held, Own, Sealing, SharingKey, SignedReceipt, Sync
from fleet import journal
from fleet.store import device_rows, erasure, sql
from fleet.store.tables import commands, devices, erased, identities, identity_copies, sharing_keys, sharing_sites

AT_ONCE = 200
"""Boxes that a device is asked for, or may fetch, with one answer."""
SYNC = "sync-identities"
COMMAND_S = 120.0
copies = identity_copies


class SharingError(AlmenaError):
    """That cannot be: nobody asked for it, or it is another's."""


def sync(connection: Connection, device: str, said: Sync, now: float) -> Duties:
    """Take what a device says, and answer what it has to do. Other devices that have something to do by it are told."""
    site = connection.execute(select(devices.c.site).where(devices.c.device == device)).scalar()
    if site is None:
        return Duties(trouble="the hub has not heard of this device over the broker yet")
    _register(connection, said.key, now)
    sharing = shares(connection, site)
    _note_erased(connection, device, said.erased, now)
    trouble = _take_own(connection, device, site, said.own, now) if sharing else ""
    if sharing:
        _expect_copies(connection, device, site)
    _note_held(connection, device, said)
    if sharing:
        tell(connection, _awaited(connection, device, site), now)
    return Duties(
        sharing=sharing,
        trouble=trouble,
        seal=_to_seal(connection, device, site) if sharing else (),
        fetch=_to_fetch(connection, device, site, said) if sharing else (),
        erase=_to_erase(connection, device),
        leave=_to_leave(connection, site if sharing else "", said),
        receipts=_to_prove(connection, device, said.erased),
    )


def put(connection: Connection, device: str, box: Box, now: float) -> None:
    """Keep a box that its origin has sealed for another device, which is told. Raises SharingError."""
    label = box.label
    row = _rows(connection, [label.id]).get(label.id)
    if label.origin != device or row is None or row.origin != device or row.erase_at is not None or row.revision != label.revision:
        raise SharingError(f"nobody waits for this box of {label.id}")
    own = (copies.c.device == label.to, copies.c.identity == label.id, copies.c.receipt.is_(None))
    values = {"box": box.model_dump_json(), "box_revision": label.revision, "box_at": now}
    if not connection.execute(update(copies).where(*own).values(values)).rowcount:
        raise SharingError(f"{label.id} is not for {label.to}")
    tell(connection, [label.to], now)


def box(connection: Connection, device: str, identity: str, revision: int) -> str:
    """The box for a device. Raises UnknownError."""
    mine = (copies.c.device == device, copies.c.identity == identity, copies.c.box_revision == revision)
    query = select(copies.c.box, identities.c.site).join(identities, identities.c.id == copies.c.identity)
    found = connection.execute(query.where(*mine, copies.c.receipt.is_(None), copies.c.box.is_not(None), _live())).first()
    site = connection.execute(select(devices.c.site).where(devices.c.device == device)).scalar()
    if found is None or found.site != site or not shares(connection, found.site):
        raise UnknownError("there is no such box for this device")
    return str(found.box)


def prove(connection: Connection, device: str, proofs: Sequence[SignedReceipt], now: float) -> None:
    """Keep receipts, whose signatures were checked."""
    for one in proofs:
        identity = one.receipt.identity
        mine = (copies.c.device == device, copies.c.identity == identity, copies.c.receipt.is_(None))
        values = {"receipt": one.model_dump_json(), "receipt_at": now, "box": None, "revision": None, "declined": ""}
        if connection.execute(update(copies).where(*mine).values(values)).rowcount:
            journal.note(connection, device, "identity erased", identity, {"receipt": one.receipt.id, "reason": one.receipt.reason}, now)


def leave(connection: Connection, device: str, now: float) -> None:
    """The device does not share any more: it keeps nothing of others, and they nothing of it."""
    connection.execute(delete(sharing_keys).where(sharing_keys.c.device == device))
    tell(connection, _takers(connection, [device]), now)
    mine = (copies.c.device == device, copies.c.receipt.is_(None))
    connection.execute(update(copies).where(*mine).values(box=None, box_revision=None, revision=None, declined=""))


def moved(connection: Connection, names: Sequence[str], now: float) -> None:
    """Devices stand elsewhere from now on: those that share ask what they have to leave and may take, and so do those that have theirs."""
    sharing = connection.execute(select(sharing_keys.c.device).where(sharing_keys.c.device.in_(names))).scalars()
    tell(connection, {*sharing, *_takers(connection, names)}, now)


def erase(connection: Connection, by: str, identity: str, now: float) -> None:
    """Blank it here, in what every device has seen too, and have each device erase it. Once more only tells those that wait again.

    Raises UnknownError.
    """
    row = _rows(connection, [identity]).get(identity)
    if row is None:
        raise UnknownError(f"there is no shared identity {identity}")
    if row.erase_at is None:
        values = {"name": "", "consent": "", "expires_at": None, "erase_at": now, "erase_by": by}
        connection.execute(update(identities).where(identities.c.id == identity).values(values))
        of_it = copies.c.identity == identity
        never = and_(of_it, copies.c.box_revision.is_(None), copies.c.revision.is_(None), copies.c.device != row.origin)
        connection.execute(delete(copies).where(never))
        connection.execute(update(copies).where(of_it).values(box=None))
        seen_by = union(select(devices.c.device).where(devices.c.site == row.site), select(copies.c.device).where(of_it))
        for device in sorted(connection.execute(seen_by).scalars()):
            _blank(connection, device, identity)
        journal.note(connection, by, "identity erase", identity, at=now)
    waiting = select(copies.c.device).where(copies.c.identity == identity, copies.c.receipt.is_(None))
    tell(connection, connection.execute(waiting).scalars(), now)


def expire(connection: Connection, now: float) -> None:
    """Erase whose time is over; devices do so by their own clocks."""
    over = select(identities.c.id).where(identities.c.expires_at <= now, _live()).limit(AT_ONCE)
    for identity in connection.execute(over).scalars().all():
        erase(connection, "expiry", identity, now)


def erase_again(connection: Connection, now: float) -> None:
    """Erase whom the device that enrolled them has erased, by its audit or by the list that is kept outside the database."""
    of_origin = and_(erased.c.identity == identities.c.id, erased.c.device == identities.c.origin)
    for identity in connection.execute(select(identities.c.id).join(erased, of_origin).where(_live()).limit(AT_ONCE)).scalars().all():
        erase(connection, "hub", identity, now)


def forget_withdrawn(connection: Connection) -> None:
    """Forget whom their device or site shares no longer, once every device that got a box has said that it has them no more."""
    elsewhere = (copies.c.identity == identities.c.id, copies.c.box_revision.is_not(None), copies.c.device != identities.c.origin)
    kept = exists().where(*elsewhere)
    gone = select(identities.c.id).where(_withdrawn(), ~kept)
    ids = connection.execute(gone.limit(AT_ONCE)).scalars().all()
    connection.execute(delete(copies).where(copies.c.identity.in_(ids)))
    connection.execute(delete(identities).where(identities.c.id.in_(ids)))


def share(connection: Connection, by: str, site: str, enabled: bool, now: float) -> None:
    """Let the devices of a site share identities, or no longer: then each erases what it got from others. Raises UnknownError."""
    there = union(select(devices.c.site).where(devices.c.site == site), select(sharing_sites.c.site).where(sharing_sites.c.site == site))
    if connection.execute(there).first() is None:
        raise UnknownError(f"there is no site {site}")
    connection.execute(delete(sharing_sites).where(sharing_sites.c.site == site))
    if enabled:
        connection.execute(insert(sharing_sites).values(site=site, by=by, at=now))
    journal.note(connection, by, "share identities" if enabled else "share identities no longer", site, at=now)
    tell(connection, _members(connection, site), now)


def tell(connection: Connection, whom: Iterable[str], now: float) -> None:
    """Have devices ask the door, each once."""
    for device in sorted(set(whom)):
        waits = and_(commands.c.device == device, commands.c.name == SYNC, commands.c.state == "queued")
        if connection.execute(select(commands.c.id).where(waits)).first() is None:
            row = {"id": f"c-{secrets.token_hex(8)}", "device": device, "name": SYNC, "args": {}, "by": "hub", "at": now}
            connection.execute(insert(commands).values(**row, expires_at=now + COMMAND_S, state="queued"))


def _register(connection: Connection, key: SharingKey, now: float) -> None:
    statement = sql.insert(connection, sharing_keys).values(device=key.device, key=key.model_dump_json(), at=now)
    said = {"key": statement.excluded.key, "at": statement.excluded.at}
    connection.execute(statement.on_conflict_do_update(index_elements=["device"], set_=said))


def shares(connection: Connection, site: str) -> bool:
    """Whether the devices of a site share identities."""
    return bool(site) and connection.execute(select(sharing_sites.c.site).where(sharing_sites.c.site == site)).first() is not None


def _members(connection: Connection, site: str) -> list[str]:
    of_site = select(sharing_keys.c.device).join(devices, devices.c.device == sharing_keys.c.device).where(devices.c.site == site)
    return list(connection.execute(of_site).scalars())


def _rows(connection: Connection, ids: Sequence[str]) -> dict[str, Any]:
    return {row.id: row for row in connection.execute(select(identities).where(identities.c.id.in_(ids)))}


def _live() -> Any:
    return identities.c.erase_at.is_(None)


def _withdrawn() -> Any:
    """Whose device, or whose site, shares no longer."""
    kept = (identities.c.origin.in_(select(sharing_keys.c.device)), identities.c.site.in_(select(sharing_sites.c.site)))
    return and_(_live(), not_(and_(*kept)))


def _take_own(connection: Connection, device: str, site: str, own: Sequence[Own], now: float) -> str:
    """Note who was enrolled there. What hinders it is returned."""
    known = _rows(connection, [one.id for one in own])
    room = MOST_IDENTITIES - int(connection.execute(select(func.count()).where(identities.c.site == site, _live())).scalar() or 0)
    for one in own:
        row = known.get(one.id)
        if (one.expires_at is not None and one.expires_at <= now) or (row and (row.origin != device or row.erase_at is not None)):
            continue
        values = {**one.model_dump(exclude={"id"}), "site": site}
        if row is None and room > 0:
            room -= 1
            connection.execute(insert(identities).values(id=one.id, origin=device, at=now, **values))
            journal.note(connection, device, "identity share", one.id, {"site": site}, now)
        elif row is not None and any(getattr(row, name) != value for name, value in values.items()):
            connection.execute(update(identities).where(identities.c.id == one.id).values(values))
    return "" if room > 0 else f"the site {site} shares {MOST_IDENTITIES} identities, and no more are taken"


def _note_held(connection: Connection, device: str, said: Sync) -> None:
    """What the device has is its own word: what it no longer names it does not have. A box goes once it is taken; what was lost is to be
    sealed again."""
    held = {one.id: one.revision for one in said.held} | {one.id: one.revision for one in said.own}
    declined = {one.id: one.reason for one in said.declined}
    columns = (copies.c.identity, copies.c.revision, copies.c.declined, copies.c.box_revision, copies.c.box.is_not(None).label("boxed"))
    for row in connection.execute(select(*columns).where(copies.c.device == device, copies.c.receipt.is_(None))).all():
        has = held.get(row.identity)
        now_said: dict[str, Any] = {"revision": has, "declined": declined.get(row.identity, "")}
        if has is not None and has == row.box_revision and row.boxed:
            now_said["box"] = None
        elif not row.boxed and has != row.box_revision and row.identity not in said.erased:
            now_said["box_revision"] = None
        if any(getattr(row, name, "") != value for name, value in now_said.items()):
            connection.execute(update(copies).where(copies.c.device == device, copies.c.identity == row.identity).values(now_said))
    withdrawn = copies.c.identity.in_(select(identities.c.id).where(_withdrawn()))
    over = (copies.c.device == device, copies.c.revision.is_(None), copies.c.receipt.is_(None), withdrawn)
    connection.execute(update(copies).where(*over).values(box=None, box_revision=None))


def _expect_copies(connection: Connection, device: str, site: str) -> None:
    """Each identity of the site is for each device that shares."""
    there = exists().where(copies.c.identity == identities.c.id, copies.c.device == sharing_keys.c.device)
    of_member = sharing_keys.c.device.in_(_members(connection, site))
    pairs = select(identities.c.id, sharing_keys.c.device).join_from(identities, sharing_keys, of_member)
    wanted = pairs.where(identities.c.site == site, _live(), ~there)
    for fresh in (wanted.where(identities.c.origin == device), wanted.where(sharing_keys.c.device == device)):
        rows = [{"identity": identity, "device": one} for identity, one in connection.execute(fresh)]
        sql.run(connection, sql.insert(connection, copies).on_conflict_do_nothing(), rows)


def _awaited(connection: Connection, device: str, site: str) -> list[str]:
    """Who is to seal something for this device."""
    query = select(identities.c.origin).distinct().join(copies, copies.c.identity == identities.c.id)
    unsealed = copies.c.box_revision.is_distinct_from(identities.c.revision)
    others = [one for one in _members(connection, site) if one != device]
    theirs = (identities.c.origin.in_(others), identities.c.site == site, _live())
    return list(connection.execute(query.where(copies.c.device == device, copies.c.receipt.is_(None), unsealed, *theirs)).scalars())


def _takers(connection: Connection, origins: Sequence[str]) -> list[str]:
    """Other devices that have, or are to have, somebody whom one of these has enrolled."""
    query = select(copies.c.device).distinct().join(identities, identities.c.id == copies.c.identity)
    theirs = (identities.c.origin.in_(origins), copies.c.device != identities.c.origin, _live())
    return list(connection.execute(query.where(*theirs)).scalars())


def _to_seal(connection: Connection, device: str, site: str) -> tuple[Sealing, ...]:
    members = select(sharing_keys.c.key, copies.c.identity).join(copies, copies.c.device == sharing_keys.c.device)
    members = members.join(devices, devices.c.device == copies.c.device).join(identities, identities.c.id == copies.c.identity)
    wanted = members.where(
        identities.c.origin == device, identities.c.site == site, _live(), devices.c.site == site, copies.c.device != device,
        copies.c.receipt.is_(None), copies.c.box_revision.is_distinct_from(identities.c.revision),
    )  # fmt: skip
    found: dict[str, list[SharingKey]] = defaultdict(list)
    for key, identity in connection.execute(wanted.order_by(copies.c.identity).limit(AT_ONCE)):
        found[identity].append(SharingKey.model_validate_json(key))
    return tuple(Sealing(id=identity, to=tuple(keys)) for identity, keys in found.items())


def _to_fetch(connection: Connection, device: str, site: str, said: Sync) -> tuple[Held, ...]:
    has = {(one.id, one.revision) for one in said.held} | {(one.id, one.revision) for one in said.declined}
    query = select(identities.c.id, identities.c.revision).join(copies, copies.c.identity == identities.c.id)
    ready = query.where(
        copies.c.device == device, copies.c.box_revision == identities.c.revision, copies.c.box.is_not(None), copies.c.receipt.is_(None),
        identities.c.origin != device, identities.c.origin.in_(_members(connection, site)), identities.c.site == site, _live(),
    )  # fmt: skip
    waiting = [Held(id=identity, revision=revision) for identity, revision in connection.execute(ready) if (identity, revision) not in has]
    return tuple(waiting[:AT_ONCE])


def _to_leave(connection: Connection, site: str, said: Sync) -> tuple[str, ...]:
    """What a device holds and is no longer to have; of what this hub does not know it is not the judge."""
    members = set(_members(connection, site))
    rows = _rows(connection, [one.id for one in said.held]).values()
    return tuple(row.id for row in rows if row.erase_at is None and (row.site != site or row.origin not in members))


def _to_erase(connection: Connection, device: str) -> tuple[str, ...]:
    query = select(identities.c.id).join(copies, copies.c.identity == identities.c.id)
    ordered = query.where(copies.c.device == device, copies.c.receipt.is_(None), identities.c.erase_at.is_not(None))
    return tuple(connection.execute(ordered.limit(AT_ONCE)).scalars())


def _to_prove(connection: Connection, device: str, gone: Sequence[str]) -> tuple[str, ...]:
    keys = (copies.c.device, copies.c.identity)
    query = select(copies.c.identity).where(copies.c.receipt.is_(None))
    return tuple(row.identity for row in sql.where(connection, query, keys, [(device, identity) for identity in gone]))


def _note_erased(connection: Connection, device: str, gone: Sequence[str], now: float) -> None:
    """Where a person was erased on the device that enrolled them, they are erased everywhere."""
    for identity, row in _rows(connection, gone).items():
        if row.origin == device and row.erase_at is None:
            erase(connection, device, identity, now)


def _blank(connection: Connection, device: str, identity: str) -> None:
    device_rows.hold(connection, device)  # or else what a hub is just storing of it would stay
    connection.execute(sql.insert(connection, erased).values(device=device, identity=identity).on_conflict_do_nothing())
    erasure.scrub(connection, device, identity)
