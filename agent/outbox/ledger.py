"""What can be done to a store inside one write transaction. The books are carried along and written back at its end."""

from __future__ import annotations

import json
import logging
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from agent.datatypes import Event
from agent.outbox import losses, ranges, tracks
from agent.outbox.rows import DEAD, PENDING, SETTLED, LaneState, OutboxFullError, Rules, new_spool
from agent.wire import WireError, blanked, encode_event, lane_topic

logger = logging.getLogger(__name__)

TRIES = 5
"""A row that was refused this often is dead."""
KEPT_KEYS = 100_000
_OVERHEAD = 200
"""Bytes of a row beside its payload, indexes included (measured, rounded up)."""
_SIZE, _PAYLOAD, _NOTE = 12, 13, 14
"""Columns of a row."""
_AT_ONCE = 500
_COLUMNS = ", ".join(field.name for field in fields(LaneState))
_values = attrgetter(*(field.name for field in fields(LaneState)))


class Ledger:
    """The open transaction of a store. Its lanes are in `states`."""

    def __init__(self, connection: sqlite3.Connection, rules: Rules) -> None:
        self._db = connection
        self._rules = rules
        self.states = load_states(connection)
        self._stored = {_values(state) for state in self.states.values()}
        self.wall = rules.clock.wall()
        self._mono_ns = rules.clock.mono_ns()
        self._synced = rules.clock.synchronised()
        self.new_boot = False
        self._boot = self._this_boot()

    def save(self) -> None:
        """Write back the books that have changed: a process that starts must not need room for those of another that runs."""
        changed = [values for state in self.states.values() if (values := _values(state)) not in self._stored]
        self._db.executemany(
            f"INSERT OR REPLACE INTO lanes({_COLUMNS}) VALUES({','.join('?' * len(fields(LaneState)))})",
            changed,
        )

    def append(self, lane: str, events: Sequence[Event]) -> list[int]:
        """Store events; those that have no valid form are declared as lost. Raises OutboxFullError for a lane that may not evict."""
        state = self.states[lane]
        numbers: list[int] = []
        rows: list[tuple[Any, ...]] = []
        new_keys: dict[str, int] = {}
        unfit: dict[str, list[int]] = {}
        seq = state.seq
        for event in events:
            known = self._known(lane, event.key, new_keys)
            if known is None:
                known = seq = seq + 1
                if event.key is not None:
                    new_keys[event.key] = seq
                try:
                    row = self._row(state, seq, event)
                    tracks.follow(self._db, event, row[_PAYLOAD])
                    rows.append(row)
                except (WireError, TypeError, ValueError) as error:
                    logger.error("an event is not stored but declared as lost: %s", error)
                    unfit.setdefault(f"unfit: {error}", []).append(seq)
            else:
                logger.info("%s: the same was stored before, as %s event %d, and is not stored again", event.stream, event.kind, known)
            numbers.append(known)
        added = sum(row[_SIZE] for row in rows)
        if lane == "audit":
            self._room_for_audit(state, added)
        self._insert(rows)
        self._db.executemany("INSERT INTO keys(lane, key, seq) VALUES(?,?,?)", [(lane, key, seq) for key, seq in new_keys.items()])
        state.produced += seq - state.seq
        state.seq = seq
        state.pending_bytes += added
        for reason, lost in unfit.items():
            self.lose(state, state.spool, reason, ranges.of(lost))
        if lane != "audit":
            self._evict_down_to(state, self._rules.limits[lane].max_bytes)
        return numbers

    def refuse_append(self, lane: str, count: int, reason: str) -> None:
        """Count an append that was not done, and declare it."""
        state = self.states[lane]
        state.produced += count
        self.lose(state, state.spool, reason, [], count)

    def declare_failed(self, lane: str, failed: int) -> None:
        """Take the failed appends of the mirror (counted for ever) into the books."""
        state = self.states[lane]
        count = failed - state.booked
        if count > 0:
            state.booked = failed
            self.refuse_append(lane, count, "storage failed")

    def lose(self, state: LaneState, spool: str, reason: str, lost: ranges.Ranges, count: int | None = None) -> None:
        """Declare the events numbered `lost`; `count` where it is not their number."""
        count = ranges.size(lost) if count is None else count
        if count:
            state.lost += count
            losses.add(self._db, state.lane, spool, reason, count, lost, self.wall)

    def freeze_losses(self) -> None:
        """Make rows of the gathered losses that have no record under way."""
        state = self.states["loss"]
        records = losses.take_free(self._db)
        for data in records:
            state.seq += 1
            event = Event("", "loss", data, self.wall, self._mono_ns)
            row = list(self._row(state, state.seq, event))
            row[_NOTE] = losses.label(data)
            self._insert([tuple(row)])
            state.pending_bytes += row[_SIZE]
            state.produced += 1

    def settle(self, lane: str, spool: str, spans: Sequence[tuple[int, int]], refused: Sequence[tuple[int, str]]) -> int:
        """Settle the pending rows of `spool` within `spans`, but the refused ones; returns how many left the lane."""
        state = self.states[lane]
        dead = sum(self._refuse(state, spool, seq, reason) for seq, reason in refused)
        kept = {seq for seq, _ in refused}
        done = 0
        for first, last in spans:
            for start, end in ranges.without(first, last, kept):
                done += self._settle_span(state, spool, start, end)
        if done or dead:
            self._raise_floor(state)
            self._purge_history()
        return done + dead

    def maintain(self) -> None:
        """Age: settled rows that are too old go; unsettled ones expire and are declared. Old keys go too."""
        for state in self.states.values():
            if state.lane in self._rules.limits:
                self._expire(state, self._rules.limits[state.lane].max_age_s)
        self._purge_history()
        self._db.execute(
            "DELETE FROM keys WHERE n <= (SELECT MAX(n) FROM keys) - ? AND NOT EXISTS"
            " (SELECT 1 FROM rows WHERE rows.lane = keys.lane AND rows.seq = keys.seq)",
            (KEPT_KEYS,),
        )
        self._db.execute("DELETE FROM alarms WHERE n <= (SELECT MAX(n) FROM alarms) - 100")
        self._db.execute("DELETE FROM doubts WHERE NOT EXISTS (SELECT 1 FROM rows WHERE rows.spool = doubts.spool AND state = 0)")
        self._db.execute(
            "DELETE FROM spools WHERE EXISTS (SELECT 1 FROM spools AS later JOIN lanes USING (lane)"
            " WHERE later.lane = spools.lane AND later.n > spools.n AND later.first <= lanes.floor + 1)"
        )

    def drop_damaged(self, lane: str, damaged: Sequence[tuple[str, int]]) -> None:
        """Declare pending rows whose payload is not what was stored."""
        state = self.states[lane]
        for spool, seq in damaged:
            if self._remove(state, "spool = ? AND seq = ?", (spool, seq)):
                self.lose(state, spool, "damaged", [(seq, seq)])
        self._raise_floor(state)

    def blank(self, n: int, identity: str) -> int:
        """Take an identity out of a row; 1 if the row is there (still) and held it."""
        found = self._db.execute("SELECT lane, state, size, payload FROM rows WHERE n=?", (n,)).fetchone()
        payload = blanked(found[3], identity) if found else None
        if payload is None:
            return 0
        lane, state, size, _ = found
        new_size = len(payload) + _OVERHEAD
        self._db.execute("UPDATE rows SET payload=?, size=?, checksum=? WHERE n=?", (payload, new_size, zlib.crc32(payload), n))
        if state == PENDING:
            self.states[lane].pending_bytes += new_size - size
        else:
            self.states[lane].history_bytes += new_size - size
        return 1

    def erased(self, identity: str) -> None:
        """It was taken out of rows: out of open tracks, too, and copies of payloads are void."""
        tracks.blank(self._db, identity)
        self._db.execute("INSERT INTO erasures(erased_at) VALUES(?)", (self.wall,))

    def start_spool(self, lane: str) -> None:
        """Go on under a new random id; numbers go on, so that they order the whole lane."""
        state = self.states[lane]
        state.spool = new_spool()
        self._db.execute("INSERT INTO spools(lane, spool, first) VALUES(?,?,?)", (lane, state.spool, state.seq + 1))

    def doubt(self, lane: str) -> None:
        """The hub's word on the lane's spool may mean other rows than those that are here."""
        self._db.execute("INSERT OR IGNORE INTO doubts(spool) VALUES(?)", (self.states[lane].spool,))

    def alarm(self, text: str) -> None:
        """Keep a message for the operator."""
        self._db.execute("INSERT INTO alarms(raised_at, text) VALUES(?,?)", (self.wall, text))

    def _known(self, lane: str, key: str | None, new: dict[str, int]) -> int | None:
        if key is None:
            return None
        if key in new:
            return new[key]
        found = self._db.execute("SELECT seq FROM keys WHERE lane=? AND key=?", (lane, key)).fetchone()
        return found[0] if found else None

    def _row(self, state: LaneState, seq: int, event: Event) -> tuple[Any, ...]:
        lane_topic(self._rules.device, state.lane, event.stream, event.kind)  # raises for what no topic can carry
        clock = self._rules.clock
        payload = encode_event(
            event,
            device=self._rules.device,
            outbox=self._rules.outbox,
            spool=state.spool,
            seq=seq,
            boot_id=clock.boot_id,
            clock="synced" if self._synced else "unsynced",
            host=self._rules.host,
        )
        return (
            state.lane, state.spool, seq, PENDING, 0, str(event.stream), str(event.kind), float(event.captured_at), self.wall, self._boot,
            self._mono_ns / 1e9, zlib.crc32(payload), len(payload) + _OVERHEAD, payload, "",
        )  # fmt: skip

    def _insert(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self._db.executemany(
            "INSERT INTO rows(lane, spool, seq, state, tries, stream, kind, captured_at, stored_at, boot, mono_s, checksum, size, payload,"
            " note) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            rows,
        )

    def _room_for_audit(self, state: LaneState, added: int) -> None:
        limit = self._rules.audit_bytes
        if state.pending_bytes + added > limit:
            raise OutboxFullError(f"the audit lane holds {state.pending_bytes} bytes that nobody has taken; {limit} are allowed")

    def _evict_down_to(self, state: LaneState, limit: int) -> None:
        while state.pending_bytes > limit:
            oldest = self._db.execute(
                "SELECT spool, seq, size FROM rows WHERE lane=? AND state=0 ORDER BY seq LIMIT ?", (state.lane, _AT_ONCE)
            ).fetchall()
            if not oldest:
                raise sqlite3.DatabaseError("malformed: the books hold bytes that no row has")
            excess = state.pending_bytes - limit
            chosen = []
            for spool, seq, size in oldest:
                if excess <= 0:
                    break
                excess -= size
                chosen.append((spool, seq))
            self._evict(state, chosen, "evicted")

    def _expire(self, state: LaneState, max_age_s: float) -> None:
        while True:
            oldest = self._db.execute(
                "SELECT spool, seq, boot, mono_s FROM rows WHERE lane=? AND state=0 ORDER BY seq LIMIT ?", (state.lane, _AT_ONCE)
            ).fetchall()
            expired = [(spool, seq) for spool, seq, boot, mono_s in oldest if self._age(boot, mono_s) > max_age_s]
            self._evict(state, expired, "expired")
            if len(expired) < _AT_ONCE:
                return

    def _age(self, boot: int, mono_s: float) -> float:
        """Seconds since a row was stored, whatever was done to the wall clock; 0 if nobody can know."""
        if boot == self._boot:
            return self._mono_ns / 1e9 - mono_s
        started_at = self._db.execute("SELECT started_at FROM boots WHERE n=?", (boot,)).fetchone()
        if not self._synced or started_at is None or started_at[0] is None:
            return 0.0
        return float(self.wall - (started_at[0] + mono_s))

    def _evict(self, state: LaneState, chosen: Sequence[tuple[str, int]], reason: str) -> None:
        by_spool: dict[str, list[int]] = {}
        for spool, seq in chosen:
            by_spool.setdefault(spool, []).append(seq)
        for spool, numbers in by_spool.items():
            lost = ranges.of(numbers)
            for first, last in lost:
                self._remove(state, "spool = ? AND seq BETWEEN ? AND ?", (spool, first, last))
            self.lose(state, spool, reason, lost)
        if chosen:
            self._raise_floor(state)

    def _remove(self, state: LaneState, where: str, values: tuple[Any, ...]) -> int:
        """Delete pending rows of the lane; returns how many."""
        where = f"lane = ? AND state = 0 AND {where}"
        count, size = self._db.execute(f"SELECT COUNT(*), TOTAL(size) FROM rows WHERE {where}", (state.lane, *values)).fetchone()
        self._db.execute(f"DELETE FROM rows WHERE {where}", (state.lane, *values))
        state.pending_bytes -= int(size)
        return int(count)

    def _settle_span(self, state: LaneState, spool: str, first: int, last: int) -> int:
        where = "lane = ? AND state = 0 AND spool = ? AND seq BETWEEN ? AND ?"
        values = (state.lane, spool, first, last)
        count, size = self._db.execute(f"SELECT COUNT(*), TOTAL(size) FROM rows WHERE {where}", values).fetchone()
        if count == 0:
            return 0
        if state.lane == "loss":
            self._acknowledge(where, values)
        self._db.execute(f"UPDATE rows SET state = {SETTLED} WHERE {where}", values)
        state.settled += count
        state.pending_bytes -= int(size)
        state.history_bytes += int(size)
        return int(count)

    def _acknowledge(self, where: str, values: tuple[Any, ...]) -> None:
        for (payload,) in self._db.execute(f"SELECT payload FROM rows WHERE {where}", values).fetchall():
            data = json.loads(payload)["data"]
            self.states[data["lane"]].acknowledged += data["count"]

    def _refuse(self, state: LaneState, spool: str, seq: int, reason: str) -> int:
        """Count a refusal; 1 if it was the last try."""
        where = "lane = ? AND state = 0 AND spool = ? AND seq = ?"
        values = (state.lane, spool, seq)
        self._db.execute(f"UPDATE rows SET tries = tries + 1, note = CASE lane WHEN 'loss' THEN note ELSE ? END WHERE {where}",
                         (reason[: losses.MAX_REASON], *values))  # fmt: skip
        found = self._db.execute(f"SELECT tries, size FROM rows WHERE {where}", values).fetchone()
        if found is None or found[0] < TRIES:
            return 0
        if state.lane == "loss":
            self._acknowledge(where, values)
            state.lost += 1
            self.alarm(f"the hub refused a loss record {TRIES} times: {reason[: losses.MAX_REASON]}")
        else:
            self.lose(state, spool, f"refused: {reason}", [(seq, seq)])
        self._db.execute(f"UPDATE rows SET state = {DEAD} WHERE {where}", values)
        state.pending_bytes -= found[1]
        state.history_bytes += found[1]
        return 1

    def _raise_floor(self, state: LaneState) -> None:
        lowest = self._db.execute("SELECT MIN(seq) FROM rows WHERE lane=? AND state=0", (state.lane,)).fetchone()[0]
        state.floor = max(state.floor, state.seq if lowest is None else lowest - 1)

    def _purge_history(self) -> None:
        """Forget the oldest settled and dead rows that are too old or too many: no loss."""
        before = self.wall - self._rules.history_age_s
        excess = sum(state.history_bytes for state in self.states.values()) - self._rules.history_bytes
        while True:
            oldest = self._db.execute(
                "SELECT n, lane, size, stored_at FROM rows WHERE state > 0 ORDER BY n LIMIT ?", (_AT_ONCE,)
            ).fetchall()
            last = None
            for n, lane, size, stored_at in oldest:
                if excess <= 0 and stored_at >= before:
                    break
                excess -= size
                self.states[lane].history_bytes -= size
                last = n
            if last is None:
                return
            self._db.execute("DELETE FROM rows WHERE state > 0 AND n <= ?", (last,))

    def _this_boot(self) -> int:
        """The number of this boot, with the wall time of its start once that is known."""
        boot_id = self._rules.clock.boot_id
        found = self._db.execute("SELECT n, started_at FROM boots WHERE boot_id=?", (boot_id,)).fetchone()
        started_at = self.wall - self._mono_ns / 1e9 if self._synced else None
        if found is None:
            self.new_boot = True
            number = self._db.execute("INSERT INTO boots(boot_id, started_at) VALUES(?,?)", (boot_id, started_at)).lastrowid
            return int(number or 0)
        if found[1] is None and started_at is not None:
            self._db.execute("UPDATE boots SET started_at=? WHERE n=?", (started_at, found[0]))
        return int(found[0])


def load_states(connection: sqlite3.Connection) -> dict[str, LaneState]:
    """The books as they stand."""
    return {row[0]: LaneState(*row) for row in connection.execute(f"SELECT {_COLUMNS} FROM lanes")}
