"""What the hub asks of this device: commands; the desired state is handed on.

Commands run one after another in a thread of their own. Each is audited before and after, carried out at most once, and answered with
the same reply however often it comes.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent import wire
from agent.audit import record
from agent.errors import AlmenaError
from agent.outbox import Outbox, OutboxError
from agent.uplink.journal import Journal, JournalError

log = logging.getLogger(__name__)

LOOK, LOOK_S = ("", b"look"), 5.0
"""In place of a message, when there is none for so long: time to look what runs."""


class Publish(Protocol):
    """Session.publish."""

    def __call__(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, properties: Properties | None = None) -> bool:
        """False if there is no connection."""


class Desires(Protocol):
    """Who looks after the desired state."""

    def submit(self, payload: bytes) -> None:
        """Take a message, at once. Raises WireError."""

    def reported(self) -> dict[str, Any]:
        """The fields of `wire.Reported` that answer it."""


Handler = Callable[[Mapping[str, Any]], Any]
"""Carries a command out with its arguments; returns what goes into the reply. Raises AlmenaError with a message for people."""


class Commands:
    """The thread. `state` gives what is reported: settings digest, streams, engines. `journal`: one that others use too."""

    def __init__(
        self,
        device: str,
        directory: Path,
        outbox: Outbox,
        publish: Publish,
        handlers: Mapping[str, Handler],
        state: Callable[[], dict[str, Any]],
        desires: Desires,
        journal: Journal | None = None,
    ) -> None:
        self._device = device
        self._journal = journal or Journal(directory / "commands.sqlite")
        self._outbox = outbox
        self._publish = publish
        self._handlers = handlers
        self._state = state
        self._desires = desires
        self._inbox: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        self._reported = b""
        self._thread = threading.Thread(target=self._run, name="commands", daemon=True)

    def start(self) -> None:
        """Start taking messages."""
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End after the command in hand, or after `timeout` seconds."""
        self._inbox.put(None)
        self._thread.join(timeout)
        if not self._thread.is_alive():
            self._journal.close()

    def submit(self, topic: str, payload: bytes) -> None:
        """Take a message on a command topic or the desired state; returns at once."""
        self._inbox.put((topic, payload))

    def report(self) -> None:
        """Publish the reported state soon."""
        self._inbox.put(("", b""))

    def _run(self) -> None:
        while (message := self._next()) is not None:
            try:
                if message == LOOK:
                    self._follow()
                else:
                    self.handle(*message)
            except Exception:  # a supervisor: no message may end the thread
                log.exception("a message from the hub could not be handled")

    def handle(self, topic: str, payload: bytes) -> None:
        """Carry a message out at once, for a caller that has a thread for it; without a topic: report."""
        if not topic:
            self._report()
            return
        try:
            address = wire.parse(topic)
            if address.topic.name == "desired":
                self._on_desired(payload)
            elif address.topic.name == "command":
                self._on_command(address.name, wire.decode(wire.Command, payload))
        except wire.WireError as error:
            log.warning("%s: %s", topic, error)

    def _on_command(self, name: str, command: wire.Command) -> None:
        payload = self._answer(name, command)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.CorrelationData = command.id.encode()
        self._publish(self._reply_topic(command), payload, properties=properties)

    def _answer(self, name: str, command: wire.Command) -> bytes:
        """The reply, of now or of the first time; a command that cannot be noted is not carried out."""
        try:
            if not self._journal.begin(command.id):
                interrupted = _no(command, "interrupted", "the agent ended while it carried this out")
                return self._journal.reply(command.id) or wire.encode(interrupted)
        except JournalError as error:
            log.warning("command %s is refused: %s", command.id, error)
            return wire.encode(_no(command, "not-recorded", f"not carried out now; whether it was before is not known: {error}"))
        payload = wire.encode(self._carry_out(name, command))
        try:
            self._journal.finish(command.id, payload)
        except JournalError as error:
            log.error("the reply to command %s could not be kept: %s", command.id, error)
        return payload

    def _reply_topic(self, command: wire.Command) -> str:
        """Only ever a reply topic of this device: a command must not make it write elsewhere."""
        own = wire.TOPICS["reply"].match(command.reply_to)
        if own is not None and own["device"] == self._device:
            return command.reply_to
        return wire.TOPICS["reply"].of(self._device, id=command.id)

    def _carry_out(self, name: str, command: wire.Command) -> wire.Reply:
        handler = self._handlers.get(name)
        if name != command.name:
            return _no(command, "bad-command", f"the topic says {name!r}, the payload {command.name!r}")
        if handler is None:
            return _no(command, "unknown-command", f"this agent knows: {', '.join(sorted(self._handlers))}")
        if command.expires_at < time.time():
            return _no(command, "expired", "the command came too late; check the clocks of both sides if that is a surprise")
        try:
            self._audit(command, "accepted")
        except OutboxError as error:
            return _no(command, "not-audited", f"commands are carried out only if that can be recorded: {error}")
        try:
            reply = wire.Reply(id=command.id, ok=True, code="done", result=handler(command.args))
        except AlmenaError as error:
            reply = _no(command, "failed", str(error))
        try:
            self._audit(command, reply.code)
        except OutboxError as error:
            log.error("the outcome of command %s could not be recorded: %s", command.id, error)
        return reply

    def _audit(self, command: wire.Command, outcome: str) -> None:
        record(self._outbox, "hub", f"command {command.name}", outcome, {"id": command.id})

    def _on_desired(self, payload: bytes) -> None:
        try:
            self._desires.submit(payload)
        finally:
            self._report()

    def _next(self) -> tuple[str, bytes] | None:
        try:
            return self._inbox.get(timeout=LOOK_S)
        except queue.Empty:
            return LOOK

    def _follow(self) -> None:
        """Report again where what runs is no longer what was reported: engines come up after the broker's session."""
        if self._reported and self._what_runs() != self._reported:
            self._report()

    def _report(self) -> None:
        self._reported = self._what_runs()
        self._publish(wire.TOPICS["reported"].of(self._device), self._reported, retain=True)

    def _what_runs(self) -> bytes:
        return wire.encode(wire.Reported(state=self._state(), **self._desires.reported()))


def _no(command: wire.Command, code: str, detail: str) -> wire.Reply:
    return wire.Reply(id=command.id, ok=False, code=code, detail=detail)
