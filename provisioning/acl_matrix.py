"""Who may read and write what, found out by trying: every role on every topic against a real broker.

All roles that get a connection subscribe to everything, and each publishes a message of its own on every topic. What somebody hears is
proof that the one may write and the other read there. A last message, which each may read, tells that nothing more is coming.
"""

from __future__ import annotations

import json
import queue
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from agent.identity.keys import Pair
from agent.wire.topics import HUB, TOPICS
from provisioning.broker import WATCH
from provisioning.ca import Authority
from provisioning.client import NotAcceptedError, Session, session
from provisioning.trial import LIFETIME, Trial

DEVICE, OTHER = "cam-1", "cam-2"
ROLES = ("device", "other device", "hub", "watch", "claim", "anonymous", "revoked", "stranger's hub")
BEYOND = (
    f"almena/1/{DEVICE}",
    f"almena/1/{DEVICE}/down",
    f"almena/1/{DEVICE}/up/event/door/face/more",
    f"almena/1/{OTHER}/up/reply/c-1",
    f"almena/1/{OTHER}/down/command/status",
    f"almena/2/{DEVICE}/status",
    "elsewhere",
    "$SYS/broker/version",
    "$CONTROL/dynamic-security/v1",
)
"""Topics of no family, and of the other device."""
EVERYTHING = (
    "#",
    "almena/#",
    "+/+/+/+",
    "almena/1/+/down/#",
    "almena/1/+/up/#",
    "almena/1/+/status",
    "almena/1/hub/state",
    "$SYS/broker/version",
)
HEARD_WITHIN_S = 30.0

_RULES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "device": (("w", rf"almena/1/{DEVICE}/(status|up(/.*)?)"), ("r", rf"almena/1/{DEVICE}/down(/.*)?"), ("r", "almena/1/hub/state")),
    "other device": (("w", rf"almena/1/{OTHER}/(status|up(/.*)?)"), ("r", rf"almena/1/{OTHER}/down(/.*)?"), ("r", "almena/1/hub/state")),
    "hub": (("r", r"almena/1/[^/]+/(status|up(/.*)?)"), ("w", r"almena/1/[^/]+/down(/.*)?"), ("rw", "almena/1/hub/state")),
    "watch": (("r", r"almena/1/[^/]+/status"), ("r", "almena/1/hub/state")),
}
"""What is meant: role, access, topics. Whoever is not named gets no connection."""


@dataclass(frozen=True)
class Matrix:
    """`found[role][topic]`: `rw`, `r`, `w` or `-`; None for a role that gets no connection."""

    topics: tuple[str, ...]
    found: Mapping[str, Mapping[str, str] | None]

    @property
    def wrong(self) -> list[str]:
        """Each cell that is not as it is meant."""
        cells = [(role, topic) for role in ROLES for topic in self.topics]
        return [
            f"{role} at {topic}: {self._cell(role, topic)}, and it should be {meant(role, topic)}"
            for role, topic in cells
            if self._cell(role, topic) != meant(role, topic)
        ]

    def table(self) -> str:
        """As a table in Markdown."""
        rows = [("topic", *ROLES), tuple("---" for _ in (0, *ROLES))]
        rows += [(f"`{topic}`", *(self._cell(role, topic) for role in ROLES)) for topic in self.topics]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows)

    def _cell(self, role: str, topic: str) -> str:
        found = self.found[role]
        return "no connection" if found is None else found[topic]


def meant(role: str, topic: str) -> str:
    """What a role should be able to do: `rw`, `r`, `w`, `-`, or `no connection`."""
    if role not in _RULES:
        return "no connection"
    given = "".join(access for access, pattern in _RULES[role] if re.fullmatch(pattern, topic))
    return "".join(letter for letter in "rw" if letter in given) or "-"


def all_topics() -> tuple[str, ...]:
    """One of each family, of the device; and those of no family."""
    parts = {"stream": "door", "kind": "face", "id": "c-1", "name": "status"}
    return (*(topic.of(DEVICE, **parts) for topic in TOPICS.values()), *BEYOND)


def try_all(trial: Trial) -> Matrix:
    """The matrix of a broker that runs. Raises NotAcceptedError if one of the fleet's own gets no connection."""
    topics = all_topics()
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for role, pair in _roles(trial).items():
            try:
                sessions[role] = stack.enter_context(session(trial.endpoint, pair, client_id=DEVICE if role == "other device" else ""))
            except NotAcceptedError:
                if role in _RULES:
                    raise
        sessions["device"].publish(TOPICS["status"].of(DEVICE), b'["device", "kept"]', retain=True)
        for role, one in sessions.items():
            one.subscribe([*EVERYTHING, f"$share/{role.replace(' ', '-')}/almena/1/#"])
        said = {
            (role, topic) for role, one in sessions.items() for topic in topics if one.publish(topic, json.dumps([role, topic]).encode())
        }
        heard = _heard(sessions)
    found = {role: _row(role, topics, said, heard) if role in sessions else None for role in ROLES}
    return Matrix(topics, found)


def try_will(trial: Trial) -> bool:
    """Whether a device can leave a will on the status of another: it must not."""
    topic = TOPICS["status"].of(DEVICE)
    with session(trial.endpoint, trial.hub) as hub:
        hub.subscribe([topic])
        try:
            with session(trial.endpoint, trial.device(OTHER), will=topic) as other:
                other.vanish()
                other.ended.wait(HEARD_WITHIN_S)
        except NotAcceptedError:
            pass
        with session(trial.endpoint, trial.device(OTHER)):  # takes the place of whatever is left of the last one
            pass
        with session(trial.endpoint, trial.device(DEVICE)) as device:
            device.publish(topic, b"end")
        payload = b""
        while payload != b"end":
            payload = hub.heard.get(timeout=HEARD_WITHIN_S).payload
            if payload == b"will":
                return True
    return False


def _roles(trial: Trial) -> dict[str, Pair | None]:
    revoked = trial.device("cam-3")
    trial.revoke("cam-3")
    return {
        "device": trial.device(DEVICE),
        "other device": trial.device(OTHER),
        "hub": trial.hub,
        "watch": trial.authority.client(WATCH, LIFETIME),
        "claim": trial.claim("claim.batch-1"),
        "anonymous": None,
        "revoked": revoked,
        "stranger's hub": Authority.new("Trial fleet").client(HUB, LIFETIME),
    }


def _heard(sessions: Mapping[str, Session]) -> dict[str, set[tuple[str, str]]]:
    """For each role the topics on which it heard something, each with who had said it."""
    for name in (DEVICE, OTHER):
        sessions["hub"].publish(TOPICS["ack"].of(name), b'["hub", "end"]')
    sessions["device"].publish(TOPICS["status"].of(DEVICE), b'["device", "end"]')
    found: dict[str, set[tuple[str, str]]] = {}
    for role, one in sessions.items():
        heard = found[role] = set()
        while True:
            try:
                message = one.heard.get(timeout=HEARD_WITHIN_S)
            except queue.Empty:
                raise NotAcceptedError(f"{role} does not hear what it may read") from None
            speaker, word = json.loads(message.payload) if message.payload.startswith(b"[") else ("the broker", "")
            if word == "end":
                break
            heard.add((message.topic, speaker))
    return found


def _row(role: str, topics: tuple[str, ...], said: set[tuple[str, str]], heard: Mapping[str, set[tuple[str, str]]]) -> dict[str, str]:
    written = {topic for ears in heard.values() for topic, speaker in ears if speaker == role} | {
        topic for who, topic in said if who == role
    }
    read = {topic for topic, _ in heard[role]}
    return {topic: ("r" * (topic in read) + "w" * (topic in written)) or "-" for topic in topics}
