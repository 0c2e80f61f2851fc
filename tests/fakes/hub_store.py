"""A hub's store that is fed messages as devices send them."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Engine, text

from agent import wire
from fleet.store import Batch, Message, Store

SPOOL = "00112233445566aa"
OUTBOX = "0" * 16
EVENTS = "almena/1/dev-9/up/event/cam/count"
LOSSES = "almena/1/dev-9/up/loss"
NOW = 1.7e9


class StoredHub:
    """A store, and SQL that both databases understand on it."""

    def __init__(self, store: str | Engine | Store) -> None:
        self.store = store if isinstance(store, Store) else Store(store)

    def take(self, topic: str, payload: bytes, now: float = NOW) -> wire.Ack | None:
        """What the device is told of a batch of one message."""
        acks = self.write((topic, payload), now=now)
        return acks[0][1] if acks else None

    def write(self, *messages: tuple[str, bytes], now: float = NOW) -> list[tuple[str, wire.Ack]]:
        """One batch."""
        batch = Batch()
        for topic, payload in messages:
            batch.take(Message(topic, payload, now))
        return self.store.write(batch)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query over another connection."""
        with self.store.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def said(self, device: str = "dev-9") -> dict[int, Any]:
        """The data of the device's events, by number."""
        found = self.sql(f"SELECT seq, payload FROM events WHERE device = '{device}'")
        return {seq: json.loads(payload)["data"] for seq, payload in found}


def message(number: int | str, **changes: Any) -> bytes:
    """A row as a device sends it."""
    envelope = {
        "v": 1, "id": f"dev-9/{SPOOL}/{number}", "outbox": OUTBOX, "stream": "cam", "kind": "count", "captured_at": NOW, "mono_ns": 5,
        "boot_id": "b", "clock": "synced", "model": "", "host": "h", "data": {"n": 1}, **changes,
    }  # fmt: skip
    return json.dumps(envelope).encode()


def other(lane: str, number: int, data: dict[str, Any], **changes: Any) -> tuple[str, bytes]:
    """A row of another lane than `event`, with its topic."""
    known = {"id": f"dev-9/{'f' * 16}/{number}", "stream": "", "kind": lane, "data": data, **changes}
    return f"almena/1/dev-9/up/{lane}", message(1, **known)


def loss(*ranges: list[int], number: int = 1, count: int = 1) -> bytes:
    """A loss record."""
    data = {"lane": "event", "spool": SPOOL, "reason": "evicted", "count": count, "ranges": ranges, "since": NOW, "until": NOW}
    return other("loss", number, data)[1]
