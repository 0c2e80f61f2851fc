"""The thread that stores."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, OperationalError

from agent import wire
from fleet.clock import HubClock
from fleet.ingest.link import Link
from fleet.settings import BrokerSettings
from fleet.store import Batch, Message, Store

log = logging.getLogger("fleet.ingest")

BATCH = 1000
BATCH_OBJECTS = 20_000
"""What a batch makes, at least: to look at it while it is in use took a fifteenth of the time."""
LONGEST_PAUSE_S = 10.0
SUBSCRIBES_EVERY_S = 30.0
TELLS_EVERY_S = 60.0
POISON = (DataError, IntegrityError, OverflowError, UnicodeError)
"""What a database says of a value that it cannot take."""


class Ingest:
    """One connection to the broker, and one thread that stores."""

    def __init__(self, store: Store, broker: BrokerSettings, care: Callable[[float], None] = lambda now: None) -> None:
        """`care` is called between batches with the time: what the store needs now and then."""
        self._store = store
        self._link = Link(broker)
        self._care = care
        self._clock = HubClock(store.newest())
        self._told = self._subscribed = float("-inf")
        self._refused = 0
        self._stop = threading.Event()
        self.stored = 0
        """Messages that were stored or refused, since the start."""
        self.trouble = ""
        """Why the store takes nothing, while it does not."""

    @property
    def connected(self) -> bool:
        """Whether the broker has taken this session."""
        return self._link.connected

    @property
    def refused(self) -> int:
        """Messages that were refused, since the start."""
        return self._store.refused

    @property
    def unheard(self) -> str:
        """What the broker does not let this hub listen to; empty where it lets it."""
        return self._link.unheard

    @property
    def clock_trouble(self) -> str:
        """Why this machine's clock is not believed; empty while it is."""
        return self._clock.trouble

    @property
    def certificate_ends(self) -> float | None:
        """When the broker's certificate ends, of a connection with TLS: Unix time."""
        return self._link.certificate_ends

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float = 5.0) -> bool:
        """At QoS 1, for any thread; whether the broker has it. What it does not take in time it may still get."""
        if not self.connected:
            return False
        sent = self._link.publish(topic, payload, retain=retain)
        try:
            sent.wait_for_publish(timeout_s)
        except (RuntimeError, ValueError):  # paho's words for: the connection has just ended
            return False
        return sent.is_published()

    def run(self) -> None:
        """Until `stop`."""
        try:
            self._link.open()
            while not self._stop.is_set():
                self._round()
                if self._link.fall_back.is_set():
                    self._link.speak_311()
        finally:
            self._link.close()

    def stop(self) -> None:
        """End `run` after the batch in hand; safe in a signal handler."""
        self._stop.set()

    def _round(self) -> None:
        """One batch: store, commit, acknowledge."""
        messages = self._link.inbox.take(BATCH, 0.2)
        if messages and not self._stored(messages):
            return
        self._look()
        if not self.trouble and not self._clock.trouble:
            self._attempt(lambda: self._care(time.time()))

    def _look(self) -> None:
        """At this machine's clock, at what the broker refuses to let it hear, and at what was refused of what it has heard."""
        doubted, now = self._clock.trouble, time.monotonic()
        self._clock.look(time.time(), now)
        if self._clock.trouble and not doubted:
            log.error("%s; until then no device is judged by it, and nothing is forgotten", self._clock.trouble)
        if self._link.unheard and now - self._subscribed > SUBSCRIBES_EVERY_S:
            self._subscribed = now
            self._link.subscribe()
        if self._store.refused > self._refused and now - self._told > TELLS_EVERY_S:
            log.warning("%d messages were refused, the newest: %s", self._store.refused - self._refused, self._store.refusal)
            self._told, self._refused = now, self._store.refused

    def _stored(self, messages: Sequence[Message]) -> bool:
        """Whether these were stored, or refused for good. A store that cannot be written is waited for: nobody is told that it was."""
        try:
            if not self._attempt(lambda: self._settle(messages)):
                return False
        except POISON as error:
            if len(messages) > 1:
                middle = len(messages) // 2
                return self._stored(messages[:middle]) and self._stored(messages[middle:])
            reason = f"the database cannot take it: {type(error).__name__}"
            return self._attempt(lambda: self._settle(messages, reason))
        return True

    def _settle(self, messages: Sequence[Message], refusal: str = "") -> None:
        batch = Batch()
        for message in messages:
            if refusal:
                batch.refuse(message, refusal, message.topic.split("/")[2])
            else:
                batch.take(message)
        acks = self._store.write(batch)
        self._clock.hear(batch.rows)
        self.stored += len(messages)
        self._link.acknowledge(messages)
        for device, ack in acks:
            self._link.publish(wire.TOPICS["ack"].of(device), wire.encode(ack))

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Do something with the store, as often as it takes; False if it ends before. On a deadlock the other one goes first."""
        pause_s = 0.1
        while not self._stop.is_set():
            try:
                work()
            except (OperationalError, InterfaceError, OSError) as error:
                self.trouble = str(getattr(error, "orig", error))
                log.error("the store takes nothing: %s; trying again", self.trouble.partition("\n")[0])
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                if self.trouble:
                    log.info("the store takes messages again")
                self.trouble = ""
                return True
        return False
