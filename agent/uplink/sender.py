"""Empties the outbox towards the broker.

    outbox ─► window of each lane ─► PUBLISH ─► PUBACK ─► settled             delivery: broker
                  ▲                                └────► hub's ack ► settled   delivery: hub
                  └── refused, not acknowledged, connection lost: again, with full jitter

One thread owns all of it; the network thread and the outbox's watcher only put notes into its inbox.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from agent import wire
from agent.backoff import Backoff
from agent.outbox import Outbox, OutboxError, Row, ranges
from agent.outbox.ledger import TRIES
from agent.uplink import oversize
from agent.uplink.doubt import Doubt
from agent.uplink.oversize import Oversize
from agent.uplink.session import Link, packet_size
from agent.uplink.status import UplinkStatus
from agent.uplink.window import Parcel, Window

log = logging.getLogger(__name__)

TURNS = ("audit", "loss", "clock", "event", "event", "event", "event", "telemetry")
"""Who may send next: rare and important lanes never wait behind a backlog of events, and telemetry takes a fifth of it."""

LANES = tuple(dict.fromkeys(TURNS))
WINDOW = 1000
READ_AT_ONCE = 50
WATCH_S = 0.5
NO_SUBSCRIBERS = 0x10
FAILURE = 0x80
Settled = dict[tuple[str, str], list[int]]
"""Lane and spool to the numbers that are to be settled."""

NOT_THE_ROWS_FAULT = {0x87: "not authorised; check the broker's access rules", 0x91: "packet id in use", 0x97: "quota exceeded"}
"""PUBACK reasons that say nothing against the row itself (MQTT 5, clause 3.4.2.1): it is kept and tried for ever."""


class Sender:
    """Listener of a session. `on_message` gets what is neither an acknowledgement nor the hub's state."""

    def __init__(
        self,
        outbox: Outbox,
        device: str,
        delivery: str,
        inflight: int,
        status: UplinkStatus,
        on_message: Callable[[str, bytes], None],
        again: Backoff,
        hub_answers_within_s: float,
    ) -> None:
        self._outbox = outbox
        self._device = device
        self._ack_topic = wire.TOPICS["ack"].of(device)
        self._hub_topic = wire.TOPICS["hub-state"].of()
        self._hub = delivery == "hub"
        self._inflight = inflight
        self._status = status
        self._on_message = on_message
        self._hub_answers_within_s = hub_answers_within_s
        self._again = again
        self._windows = {lane: Window(WINDOW) for lane in LANES}
        self._wire: dict[int, tuple[str, Parcel]] = {}
        self._settled: Settled = defaultdict(list)
        self._doubt = Doubt(outbox)
        self._oversize = Oversize()
        self._settle_at = 0.0
        self._settle_failures = 0
        self._forget()
        self._link: Link | None = None
        self._turn = 0
        self._last_round = time.monotonic()
        self._inbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._woken = threading.Event()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="sender", daemon=True),
            threading.Thread(target=self._watch, name="outbox-watch", daemon=True),
        ]

    def start(self) -> None:
        """Start sending whenever there is a link."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End the threads; what is on the wire stays unsettled."""
        self._stop.set()
        self._inbox.put(("wake",))
        for thread in self._threads:
            thread.join(timeout)

    def alive(self, within_s: float) -> bool:
        """Whether both threads live and the sender has got through a round in the last `within_s` seconds."""
        return all(thread.is_alive() for thread in self._threads) and time.monotonic() - self._last_round < within_s

    def up(self, link: Link) -> None:
        """See session.Listener."""
        self._inbox.put(("up", link))

    def down(self, link: Link) -> None:
        """See session.Listener."""
        self._inbox.put(("down", link))

    def acknowledged(self, link: Link, mid: int, reason: int) -> None:
        """See session.Listener."""
        self._inbox.put(("puback", link, mid, reason))

    def received(self, topic: str, payload: bytes) -> None:
        """See session.Listener."""
        if topic == self._ack_topic:
            self._inbox.put(("ack", payload))
        elif topic == self._hub_topic:
            self._inbox.put(("hub", payload))
        else:
            self._on_message(topic, payload)

    def _forget(self) -> None:
        """Read everything that is unsettled from the outbox again. What is on the wire takes its place there until its PUBACK."""
        for window in self._windows.values():
            for parcel in window:
                window.remove(parcel)
        self._cursor = dict.fromkeys(LANES, 0)
        self._unread = set(LANES)
        self._erasures = -1
        self._news = True

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                fresh = self._outbox.wait(WATCH_S)
            except OutboxError as error:
                log.error("the outbox cannot be watched: %s", error)
                self._stop.wait(1.0)
                continue
            if fresh and not self._woken.is_set():
                self._woken.set()
                self._inbox.put(("wake",))

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._round()
            except OutboxError as error:
                log.error("the outbox cannot be read: %s", error)
                self._forget()
                self._stop.wait(1.0)

    def _round(self) -> None:
        """Publish before settling: the broker works while the disk does, and more acknowledgements gather for the next commit."""
        for note in self._notes():
            self._handle(note)
        self._follow_erasures()
        self._publish()
        self._settle()
        if self._link is not None and not self._settled:
            self._fill()
        self._publish()
        self._status.in_flight = len(self._wire)
        self._last_round = time.monotonic()

    def _settle(self) -> None:
        """While this fails nothing is read, so that what is acknowledged and cannot be settled does not pile up, or leave again."""
        if not self._settled or time.monotonic() < self._settle_at:
            return
        try:
            for lane, spool in list(self._settled):
                self._status.settled += self._outbox.settle(lane, spool, ranges=ranges.of(self._settled[lane, spool]))
                del self._settled[lane, spool]
            self._settle_failures = 0
        except OutboxError as error:
            log.error("what is acknowledged cannot be settled; trying again: %s", error)
            self._settle_at = time.monotonic() + 1.0 + self._again.delay(self._settle_failures)
            self._settle_failures += 1

    def _notes(self) -> list[tuple[Any, ...]]:
        """Everything in the inbox; waits for the first note until a parcel is due."""
        due = [moment for window in self._windows.values() if (moment := window.next_due()) is not None]
        patience = 5.0
        if self._link is not None and due and len(self._wire) < self._limit:
            patience = min(patience, max(0.0, min(due) - time.monotonic()))
        if self._settled:
            patience = min(patience, max(0.0, self._settle_at - time.monotonic()))
        notes = []
        try:
            notes.append(self._inbox.get(timeout=patience))
            while True:
                notes.append(self._inbox.get_nowait())
        except queue.Empty:
            return notes

    @property
    def _limit(self) -> int:
        return min(self._inflight, self._link.room_for_rows) if self._link else 0

    def _handle(self, note: tuple[Any, ...]) -> None:
        kind, *rest = note
        if kind == "wake":
            self._woken.clear()
            self._unread.update(LANES)
            self._news = True
        elif kind == "up":
            self._link = rest[0]
            self._oversize.connected()
            self._spread()
        elif kind == "down" and rest[0] is self._link:
            self._lost()
        elif kind == "puback" and rest[0] is self._link:
            self._on_puback(rest[1], rest[2])
        elif kind == "ack":
            self._on_ack(rest[0])
        elif kind == "hub":
            self._on_hub(rest[0])

    def _follow_erasures(self) -> None:
        """Somebody may have been taken out of rows that are in the windows."""
        if not self._news:
            return
        erasures = self._outbox.erasures()
        if erasures != self._erasures:
            for lane, window in self._windows.items():
                if len(window):
                    window.renew(self._outbox.pending(lane, 2 * WINDOW))
            self._erasures = erasures
        self._news = False

    def _lost(self) -> None:
        """What was on the wire comes again. A row that may be to blame lets the others go first; if the connection worked it is refused."""
        now = time.monotonic()
        self._link = None
        suspect = self._oversize.suspect(parcel for _, parcel in self._wire.values())
        for lane, parcel in self._wire.values():
            if parcel is not suspect:
                self._windows[lane].schedule(parcel, now)
            elif self._oversize.works:
                self._refused(lane, parcel, oversize.REASON)
            else:
                self._windows[lane].schedule(parcel, now + 1.0 + self._again.delay(parcel.sends))
        self._wire.clear()

    def _spread(self) -> None:
        """Rows that wait for the hub's word may have been lost with the broker: send them again soon, not all at once."""
        now = time.monotonic()
        for window in self._windows.values():
            for parcel in window:
                if not parcel.on_wire and not parcel.refusals:
                    window.hasten(parcel, now + self._again.delay(0))

    def _fill(self) -> None:
        now = time.monotonic()
        for lane, window in self._windows.items():
            while lane in self._unread and (room := min(window.room, READ_AT_ONCE)) > 0:
                rows = self._fresh(lane, window, room)
                if len(rows) < room:
                    self._unread.discard(lane)
                window.add(rows, now)
                self._doubt.given(rows)

    def _fresh(self, lane: str, window: Window, room: int) -> list[Row]:
        """Up to `room` rows that are not in the window yet."""
        if lane == "loss":  # its numbers do not grow: it is gathered from two files
            rows = self._outbox.pending(lane, room + len(window))
            return [row for row in rows if (row.spool, row.seq) not in window][:room]
        rows = self._outbox.pending(lane, room, after_seq=self._cursor[lane])
        if rows:
            self._cursor[lane] = rows[-1].seq
        return rows

    def _publish(self) -> None:
        link = self._link
        if link is None:
            return
        now = time.monotonic()
        misses = 0
        while len(self._wire) < self._limit and misses < len(TURNS):
            lane = TURNS[self._turn]
            self._turn = (self._turn + 1) % len(TURNS)
            parcel = self._windows[lane].take(now)
            if parcel is None:
                misses += 1
                continue
            misses = 0
            self._send(link, lane, parcel)

    def _send(self, link: Link, lane: str, parcel: Parcel) -> None:
        row = parcel.row
        try:
            topic = wire.lane_topic(self._device, lane, row.stream, row.kind)
        except wire.WireError as error:
            self._refused(lane, parcel, str(error))
            return
        if packet_size(topic, row.payload) > link.maximum_packet:
            self._refused(lane, parcel, f"larger than the broker's limit of {link.maximum_packet} bytes")
            return
        self._wire[link.publish(topic, row.payload)] = (lane, parcel)
        self._status.published += 1

    def _on_puback(self, mid: int, reason: int) -> None:
        if reason in NOT_THE_ROWS_FAULT:
            self._status.refused += 1
            self._status.row_trouble = f"{NOT_THE_ROWS_FAULT[reason]} (reason code 0x{reason:02x})"
        self._oversize.works = True
        lane, parcel = self._wire.pop(mid, ("", None))
        if parcel is None or parcel.gone:
            return
        now = time.monotonic()
        window = self._windows[lane]
        if reason in NOT_THE_ROWS_FAULT:
            window.schedule(parcel, now + 1.0 + self._again.delay(parcel.sends))
        elif reason >= FAILURE:
            self._refused(lane, parcel, f"the broker's reason code 0x{reason:02x}")
        else:
            self._oversize.taken(parcel)
            self._status.no_subscribers = reason == NO_SUBSCRIBERS
            if self._hub:
                window.schedule(parcel, now + self._hub_answers_within_s + self._again.delay(parcel.sends))
            else:
                self._status.row_trouble = ""
                window.remove(parcel)
                self._settled[lane, parcel.row.spool].append(parcel.row.seq)

    def _refused(self, lane: str, parcel: Parcel, reason: str) -> None:
        """The row itself is not wanted. The outbox counts that; after its last try the row is a dead letter and declared as lost."""
        row, window = parcel.row, self._windows[lane]
        self._status.refused += 1
        self._status.row_trouble = reason
        try:
            dead = self._outbox.settle(lane, row.spool, refused=[(row.seq, reason)])
        except OutboxError as error:
            log.error("a refusal cannot be counted; the row will be sent again: %s", error)
            window.schedule(parcel, time.monotonic() + 1.0 + self._again.delay(parcel.sends))
            return
        parcel.refusals += 1
        if dead:
            log.error("%s %s/%d is given up: %s", lane, row.spool, row.seq, reason)
            self._status.dead_letters += 1
        if dead or parcel.refusals >= TRIES:  # evicted or expired meanwhile
            window.remove(parcel)
        else:
            window.schedule(parcel, time.monotonic() + self._again.delay(parcel.refusals))

    def _on_ack(self, payload: bytes) -> None:
        """The hub has stored, or refused, rows of one spool."""
        if not self._hub:
            return
        try:
            ack = wire.decode(wire.Ack, payload)
        except wire.WireError as error:
            log.warning("an acknowledgement cannot be read: %s", error)
            return
        try:
            self._doubt.compare(ack)
        except OutboxError as error:
            log.error("an acknowledgement cannot be checked: %s", error)
            return
        refusals = {refusal.seq: refusal.reason for refusal in ack.refused}
        for lane, window in self._windows.items():
            covered = window.covered(ack.spool, ack.upto, ack.ranges)
            stored = [parcel for parcel in covered if self._doubt.may_be_stored(parcel) and parcel.row.seq not in refusals]
            if stored:
                self._status.row_trouble = ""
                self._settled[lane, ack.spool] += [parcel.row.seq for parcel in stored]
            for parcel in stored:
                window.remove(parcel)
            for seq, reason in refusals.items():
                refused = window.get((ack.spool, seq))
                if refused is not None:
                    self._refused(lane, refused, f"the hub: {reason}")

    def _on_hub(self, payload: bytes) -> None:
        try:
            said = wire.decode(wire.HubState, payload)
        except wire.WireError as error:
            log.warning("the hub's state cannot be read: %s", error)
            return
        if said.state == "online" and self._status.hub != "online":
            self._spread()
        self._status.hub = said.state
