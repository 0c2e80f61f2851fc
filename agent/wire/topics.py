"""Every topic of the protocol, in one table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from agent.wire.payloads import NAME, WireError

HUB = "hub"
"""The reserved device name under which the hub speaks."""

_PARTS = {
    "device": rf"(?!{HUB}/){NAME}",
    "stream": NAME,
    "kind": NAME,
    "id": r"[A-Za-z0-9_-]{1,64}",
    "name": r"[a-z0-9][a-z0-9._-]{0,62}",
}


@dataclass(frozen=True)
class Topic:
    """One kind of topic. `template` holds its parts in braces; `payloads` names the models it carries (see wire.PAYLOADS)."""

    name: str
    template: str
    payloads: tuple[str, ...]
    retained: bool = False
    qos: int = 1

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.sub(r"\{(\w+)\}", lambda part: f"(?P<{part[1]}>{_PARTS[part[1]]})", self.template))

    def of(self, device: str = "", **parts: str) -> str:
        """The topic with its parts filled in. Raises WireError where one is missing or has characters it must not have."""
        values = {"device": device, **parts}
        try:
            topic = self.template.format_map(values)
        except KeyError as error:
            raise WireError(f"topic {self.name!r} needs {error.args[0]!r}") from None
        if not self._pattern.fullmatch(topic):
            raise WireError(f"{topic!r} is no topic of the form {self.template!r}")
        return topic

    def filter(self, device: str = "+") -> str:
        """The subscription that takes in every such topic of `device` (by default of all devices)."""
        return re.sub(r"\{\w+\}", "+", self.template.replace("{device}", device))

    def match(self, topic: str) -> dict[str, str] | None:
        """The parts of `topic`, or None if it is of another kind."""
        found = self._pattern.fullmatch(topic)
        return found.groupdict() if found else None


@dataclass(frozen=True, slots=True)
class Address:
    """A topic taken apart. Parts that it does not have are empty."""

    topic: Topic
    device: str = ""
    stream: str = ""
    kind: str = ""
    id: str = ""
    name: str = ""


_DEVICE = "almena/1/{device}"

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("hub-state", f"almena/1/{HUB}/state", ("hub-state",), retained=True),
        Topic("status", f"{_DEVICE}/status", ("birth", "will"), retained=True),
        Topic("telemetry", f"{_DEVICE}/up/telemetry", ("telemetry",)),
        Topic("event", f"{_DEVICE}/up/event/{{stream}}/{{kind}}", ("event", "face", "classification", "study", "stream")),
        Topic("live", f"{_DEVICE}/up/live/{{stream}}", ("live",), qos=0),
        Topic("reported", f"{_DEVICE}/up/reported", ("reported",), retained=True),
        Topic("reply", f"{_DEVICE}/up/reply/{{id}}", ("reply",)),
        Topic("audit", f"{_DEVICE}/up/audit", ("audit",)),
        Topic("loss", f"{_DEVICE}/up/loss", ("loss",)),
        Topic("clock", f"{_DEVICE}/up/clock", ("clock",)),
        Topic("desired", f"{_DEVICE}/down/desired", ("desired",), retained=True),
        Topic("command", f"{_DEVICE}/down/command/{{name}}", ("command",)),
        Topic("ack", f"{_DEVICE}/down/ack", ("ack",)),
    )
}


def parse(topic: str) -> Address:
    """Take a topic apart. Raises WireError if it is none of the protocol's."""
    for known in TOPICS.values():
        parts = known.match(topic)
        if parts is not None:
            return Address(known, **parts)
    raise WireError(f"{topic!r} is no topic of this protocol")


def lane_topic(device: str, lane: str, stream: str = "", kind: str = "") -> str:
    """The topic of a row of the outbox: lanes are named like their topics, and only events have a stream and a kind in it."""
    return TOPICS[lane].of(device, stream=stream, kind=kind)
