"""Which numbers of a spool are here, and where the next spool of its lane begins, so that nothing can be missing between two unseen."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from fleet.intervals import Intervals
from fleet.store import sql, tables

MOST_LOST = 10**12
"""What one loss record may add to the count of a device, and what may be missing of one spool, whatever it says."""
MOST_RANGES = 10_000
"""Of one spool. A row that would begin another one is refused; so many of the newest declared losses are still taken if they come."""
UNLINKED = ("loss", "")
"""Lanes whose spools are looked at one by one: a device may leave numbers of loss records out, and then tells anew what they told."""
Key = tuple[str, str]
"""Device and spool."""
Place = tuple[int, int]
"""The lowest and the highest number of a spool."""


@dataclass
class Spool:
    """The numbers of a spool that are stored or declared as lost, and those that are only declared."""

    ranges: Intervals = field(default_factory=Intervals)
    lost: Intervals = field(default_factory=Intervals)
    given_up: Intervals = field(default_factory=Intervals)
    """Those that somebody counts as lost, and that have not come: nobody knows that the device has them no more."""
    lane: str = ""
    outbox: str = ""
    """In which outbox of the device its numbers run on from those of other spools; empty where the device has not told."""
    ends: int | None = None
    """None of the newest spool of a line. Of another: the number before the next spool, 0 where one before it reaches as far."""
    missing_since: float | None = None
    touched_at: float = 0.0
    """When a row of it, or a word on its losses, came last."""
    was: tuple[tuple[str, str], tuple[int, int]] = ("", ""), (0, 0)
    """Line and place when this was read."""
    first_gap: int = 0
    """The lowest number that was missing when this was read; 0: none was."""
    known: bool = False
    """Whether it was stored before."""

    @property
    def gap(self) -> int:
        """The lowest number that is missing; 0: none is."""
        return self.ranges.first_gap or (self.ranges.highest + 1 if self._behind else 0)

    @property
    def missing(self) -> int:
        """How many numbers are neither stored nor declared, though higher ones of the lane are."""
        return min(self.ranges.missing + self._behind, MOST_LOST)

    @property
    def highest(self) -> int:
        """The highest number that is stored or declared: not what was only given up behind it. 0: there is none."""
        for low, high in list(self.given_up)[-1:]:
            if high == self.ranges.highest:
                return low - 1
        return self.ranges.highest

    @property
    def line(self) -> tuple[str, str]:
        """Lane and outbox: within one device, whose numbers run on over its spools."""
        return self.lane, self.outbox

    @property
    def place(self) -> tuple[int, int]:
        """Its lowest and highest number."""
        return self.ranges.lowest, self.highest

    @property
    def moved(self) -> bool:
        """Whether another spool of its line may end elsewhere since this was read. The newest one may grow."""
        if not self.outbox or self.lane in UNLINKED:
            return False
        line, (low, high) = self.was
        return line != self.line or low != self.ranges.lowest or (self.ends is not None and high != self.highest)

    @property
    def upto(self) -> int:
        """Up to which number the device may forget all."""
        first = self.given_up.lowest
        return min(self.ranges.upto, first - 1) if first else self.ranges.upto

    @property
    def _behind(self) -> int:
        return max(0, (self.ends or 0) - self.ranges.highest)


def read(connection: Connection, keys: Iterable[Key]) -> dict[Key, Spool]:
    """These spools, empty where they are not stored."""
    spools = tables.spools
    found = {key: Spool() for key in keys}
    columns = (spools.c.device, spools.c.spool)
    sets = (spools.c.ranges, spools.c.lost, spools.c.given_up)
    more = (spools.c.lane, spools.c.outbox, spools.c.ends, spools.c.missing_since, spools.c.touched_at)
    query = select(*columns, *sets, *more)
    for device, name, ranges, lost, given_up, lane, outbox, ends, since, at in sql.where(connection, query, columns, sorted(found)):
        known, declared, without = (Intervals(json.loads(one)) for one in (ranges, lost, given_up))
        spool = Spool(known, declared, without, lane, outbox, ends, since, at or 0.0, known=True)
        spool.was, spool.first_gap = (spool.line, spool.place), spool.gap
        found[device, name] = spool
    return found


def link(connection: Connection, touched: dict[Key, Spool]) -> dict[str, int]:
    """Tell each spool where it ends, in lines where that may have changed; what changes is taken into `touched`.

    Returns by device how many numbers count as lost no more: they were given up behind one spool, and have come in the next.
    """
    lines = {(device, *spool.line) for (device, _), spool in touched.items() if spool.moved}
    spools = tables.spools
    columns = (spools.c.device, spools.c.lane, spools.c.outbox)
    query = select(*columns, spools.c.spool, spools.c.low, spools.c.high, spools.c.ends).where(spools.c.low > 0)
    known: dict[tuple[str, str, str], dict[Key, tuple[Place, int | None]]] = defaultdict(dict)
    for device, lane, outbox, name, low, high, end in sql.where(connection, query, columns, sorted(lines)):
        known[device, lane, outbox][device, name] = ((low, high), end)
    for key, spool in touched.items():
        if (key[0], *spool.line) in lines and spool.ranges:
            known[key[0], spool.lane, spool.outbox][key] = (spool.place, spool.ends)
    changed: dict[Key, tuple[int | None, Key | None]] = {}
    for line in known.values():
        ends = _ends({key: place for key, (place, _) in line.items()})
        changed |= {key: end for key, end in ends.items() if end[0] != line[key][1]}
    touched |= read(connection, {one for key, (_, after) in changed.items() for one in (key, after) if one} - touched.keys())
    fewer: dict[str, int] = defaultdict(int)
    for key, (end, after) in changed.items():
        spool = touched[key]
        spool.ends = end
        if after and end:
            came = _hand_on(spool, end, touched[after])
            fewer[key[0]] += came if spool.lane != "telemetry" else 0
    return fewer


def _ends(places: dict[Key, Place]) -> dict[Key, tuple[int | None, Key | None]]:
    """Where each spool of a line ends, and which one begins behind it: 0 where one before it reaches as far, None for the newest.

    In the order of their beginnings: a device whose disk is put back gives numbers again, so that spools may overlap.
    """
    order = sorted(places, key=lambda key: (places[key], key))
    ends: dict[Key, tuple[int | None, Key | None]] = dict.fromkeys(order, (0, None))
    furthest = order[0]
    for key in order[1:]:
        ends[furthest] = (places[key][0] - 1, key)
        furthest = max(furthest, key, key=lambda one: places[one][1])
    ends[order[-1]] = (None, None)
    return ends


def _hand_on(spool: Spool, end: int, after: Spool) -> int:
    """What was given up behind the end of one belongs to the next: still given up, or come. Returns how many have come."""
    came = 0
    for low, high in [(max(low, end + 1), high) for low, high in spool.given_up if high > end]:
        came += high - low + 1
        for numbers in (spool.ranges, spool.lost, spool.given_up):
            numbers.remove(low, high)
        for gap in list(after.ranges.gaps(low, high)):
            came -= gap[1] - gap[0] + 1
            for numbers in (after.ranges, after.lost, after.given_up):
                numbers.add(*gap)
    return came


def give_up(connection: Connection, device: str, now: float) -> dict[str, int]:
    """Count what is missing of a device as lost for good: how many numbers, by lane. What comes all the same is taken, and counts no more:
    the device is not told that it may forget them.

    The caller holds the device.
    """
    spools = tables.spools
    keys = connection.execute(select(spools.c.device, spools.c.spool).where(spools.c.device == device, spools.c.missing > 0))
    touched = read(connection, map(tuple, keys))
    lanes: dict[str, int] = defaultdict(int)
    for spool in touched.values():
        lanes[spool.lane] += spool.missing
        for low, high in list(spool.ranges.gaps(spool.ranges.lowest, max(spool.ranges.highest, spool.ends or 0))):
            spool.ranges.add(low, high)
            spool.lost.add(low, high)
            spool.given_up.add(low, high)
        spool.lost.keep_highest(MOST_RANGES)
    write(connection, touched, now)
    return dict(lanes)


def write(connection: Connection, touched: dict[Key, Spool], now: float) -> None:
    """Store them as they are now."""
    statement = sql.insert(connection, tables.spools)
    names = ("ranges", "lost", "given_up", "lane", "outbox", "low", "high", "ends", "missing", "missing_since", "touched_at")
    said = {name: statement.excluded[name] for name in names}
    values = []
    for (device, name), spool in sorted(touched.items()):
        since = spool.missing_since if spool.gap == spool.first_gap else now
        sets = {"ranges": spool.ranges, "lost": spool.lost, "given_up": spool.given_up}
        ranges = {**{one: json.dumps(list(numbers)) for one, numbers in sets.items()}, "lane": spool.lane, "outbox": spool.outbox}
        missing = {"missing": spool.missing, "missing_since": since if spool.gap else None, "touched_at": spool.touched_at}
        place = {"low": spool.ranges.lowest, "high": spool.highest, "ends": spool.ends}
        values.append({"device": device, "spool": name, **ranges, **place, **missing})
    sql.run(connection, statement.on_conflict_do_update(index_elements=["device", "spool"], set_=said), values)
