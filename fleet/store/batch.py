"""Messages of devices, read and checked, on their way into the store."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from agent import wire
from fleet.intervals import Intervals
from fleet.store.figures import flat

LANES = ("event", "audit", "loss", "clock", "telemetry")
SUBJECT_LETTERS = 200
METRIC_LETTERS = 80
SEVERAL = "*"
"""In the place of an identity: several are named, or one within something else."""
SUBJECTS = {"face": ("name", "identity", "cluster"), "classification": ("label",), "study": ("decision", "abstained"), "stream": ("state",)}
_ID = re.compile(rb'"id"\s*:\s*"(?P<device>[a-z0-9-]{1,63})/(?P<spool>[0-9a-f]{16})/(?P<seq>[1-9][0-9]{0,17})"')

_parse = lru_cache(maxsize=16384)(wire.parse)


class Message(NamedTuple):
    """As it came. `connection` numbers the connection that its packet id belongs to; `retained`: the broker has kept it for us."""

    topic: str
    payload: bytes
    received_at: float
    retained: bool = False
    connection: int = 0
    mid: int = 0
    qos: int = 1


@dataclass(slots=True)
class Row:
    """A row of a device's outbox."""

    envelope: wire.Envelope[dict[str, Any]]
    device: str
    spool: str
    seq: int
    lane: str
    payload: bytes
    received_at: float
    boot_id: str
    subject: str = ""
    names: str | None = None
    """Of an event: the identity that it names, or SEVERAL."""
    loss: wire.Loss | None = None
    lost_spool: str = ""
    declared: Intervals | None = None
    samples: list[tuple[float, dict[str, Any], dict[str, float]]] = field(default_factory=list)
    """Of telemetry: time by the device's clock, the sample, its metrics."""

    @property
    def key(self) -> tuple[str, str, int]:
        """What it is stored under."""
        return self.device, self.spool, self.seq

    @property
    def origin(self) -> tuple[str, int, str]:
        """What tells it from another row under its number; its payload may be blanked later."""
        return self.boot_id, self.envelope.mono_ns, self.envelope.kind

    @property
    def identity(self) -> str | None:
        """Whom it names."""
        found = self.envelope.data.get("identity")
        return found if isinstance(found, str) else None


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that cannot be stored. `spool` and `seq` are known if it is the device's own and says which row it is."""

    device: str
    topic: str
    payload: bytes
    reason: str
    at: float
    spool: str = ""
    seq: int = 0


class Batch:
    """What is stored in one transaction."""

    def __init__(self) -> None:
        self.seen: dict[str, float | None] = {}
        self.rows: list[Row] = []
        self.statuses: list[tuple[str, wire.Birth | wire.Will, Message]] = []
        self.reported: dict[str, tuple[wire.Reported, Message]] = {}
        self.replies: list[tuple[str, str, wire.Reply, Message]] = []
        self.refused: list[Refused] = []

    def take(self, message: Message) -> None:
        """Sort a message in, or have it refused."""
        try:
            address = _parse(message.topic)
        except wire.WireError as error:
            self.refuse(message, str(error))
            return
        if address.device:
            self.seen.setdefault(address.device, None)
        try:
            if self._take(address, message) and not message.retained:
                self.seen[address.device] = message.received_at
        except wire.WireError as error:
            self.refuse(message, str(error), address.device)
        except (OverflowError, ValueError):
            self.refuse(message, "a number is out of bounds", address.device)

    def refuse(self, message: Message, reason: str, device: str = "") -> None:
        """Keep it among the dead letters, and tell the device if it says which row it is."""
        found = _ID.search(message.payload[:1024])
        own = found and found["device"].decode() == device
        spool, seq = (found["spool"].decode(), int(found["seq"])) if found and own else ("", 0)
        self.refused.append(Refused(device, message.topic, message.payload, reason, message.received_at, spool, seq))

    def _take(self, address: wire.Address, message: Message) -> bool:
        """Whether it is a sign of life; a will is not, because the broker speaks it."""
        name, payload = address.topic.name, message.payload
        if name in LANES:
            self.rows.append(_row(address, message))
        elif name == "status" and payload:
            said = _status(payload)
            self.statuses.append((address.device, said, message))
            return isinstance(said, wire.Birth)
        elif name == "reported" and payload:
            state = wire.decode(wire.Reported, payload)
            _require_finite(state.state)
            self.reported[address.device] = (state, message)
        elif name == "reply":
            reply = wire.decode(wire.Reply, payload)
            _require_finite(reply.result)
            self.replies.append((address.device, address.id, reply, message))
        return True


def clean(text: str, letters: int = 64) -> str:
    """What may be a key: no longer than `letters`, and without NUL, which PostgreSQL cannot keep."""
    return text[:letters].replace("\0", "\ufffd")


def subject(kind: str, data: dict[str, Any]) -> str:
    """The word by which an event is searched: who or what was seen."""
    for name in SUBJECTS.get(kind, ()):
        found = data.get(name)
        if found and isinstance(found, str):
            return clean(found, SUBJECT_LETTERS)
    return ""


def _require_finite(value: Any) -> None:
    """Raises ValueError if there is a number in it that JSON has not: `1e999` is read as infinity."""
    if not _finite(value):
        raise ValueError("a number is not finite")


def _finite(value: Any) -> bool:
    for one in value.values() if type(value) is dict else value if type(value) is list else (value,):
        if type(one) is float:
            if not math.isfinite(one):
                return False
        elif type(one) in (dict, list) and not _finite(one):
            return False
    return True


def _row(address: wire.Address, message: Message) -> Row:
    envelope = wire.decode_event(message.payload)
    _belongs(address, envelope)
    _require_finite(envelope.data)
    device, spool, seq = envelope.id.split("/")
    row = Row(envelope, device, spool, int(seq), address.topic.name, message.payload, message.received_at, clean(envelope.boot_id))
    if row.lane == "event":
        row.subject = subject(envelope.kind, envelope.data)
        row.names = _names(row)
    elif row.lane == "loss":
        row.loss = wire.Loss.model_validate(envelope.data)
        row.declared = Intervals(row.loss.ranges)
        row.lost_spool = clean(row.loss.spool)
    elif row.lane == "telemetry":
        row.samples = [(float(one["at"]), one, _figures(one)) for one in envelope.data["samples"]]
    return row


def _names(row: Row) -> str | None:
    top = row.identity
    if row.payload.count(b'"identity"') > ("identity" in row.envelope.data) or (top and top != clean(top)):
        return SEVERAL
    return top or None


def _belongs(address: wire.Address, envelope: wire.Envelope[dict[str, Any]]) -> None:
    """The topic is what the broker's access rules check; a message must not claim another device's name."""
    if envelope.device != address.device:
        raise wire.WireError("the envelope names another device than the topic")
    if address.topic.name == "event":
        if (envelope.stream, envelope.kind) != (address.stream, address.kind):
            raise wire.WireError("the envelope names another stream or kind than the topic")
    elif envelope.kind != address.topic.name:
        raise wire.WireError(f"a message of kind {envelope.kind!r} does not belong there")


def _status(payload: bytes) -> wire.Birth | wire.Will:
    try:
        return wire.decode(wire.Birth, payload)
    except wire.WireError:
        if b'"offline"' not in payload:
            raise
        return wire.decode(wire.Will, payload)


def _figures(sample: dict[str, Any]) -> dict[str, float]:
    """Its metrics, under names that may be keys."""
    return {clean(name, METRIC_LETTERS): value for name, value in flat(sample).items()}
